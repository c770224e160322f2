"""Random histories of the manager beside a plain model of it: handles, blocks, copies and events agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_model import Model, Refused, Router, Sequence
from numpy.typing import NDArray

from tempa import _core
from tempa.kv import Events, Group

WIDTH, ROWS = 24, 10
SHAPES = {
    "one group": [Group(14)],
    "a window": [Group(14, window=5)],
    "a window and sinks": [Group(16, window=3, sinks=3)],
    "hybrid": [Group(22), Group(14, window=4, sinks=1)],
}
ACTIONS = st.lists(st.tuples(st.integers(0, 15), *[st.integers(0, 1 << 16)] * 3), max_size=60)


class Pair:
    """The manager and the model, told the same."""

    def __init__(self, groups: list[Group], block_size: int, watermark: int, has_equal_hashes: bool) -> None:
        self.core = _core.KvManager(
            [(g.num_blocks, g.window, g.sinks) for g in groups], block_size, watermark, True, has_equal_hashes
        )
        self.model = Model(groups, block_size, watermark)
        self.router = Router(block_size)
        self.tables = np.zeros((len(groups), ROWS, WIDTH), np.int32)

    def chosen(self, pick: int, is_preempted: bool) -> int | None:
        handles = [h for h, s in self.model.sequences.items() if s.is_preempted == is_preempted]
        return handles[pick % len(handles)] if handles else None

    def run(self, action: int, a: int, b: int, c: int) -> None:
        handle = self.chosen(a, action in (4, 5) and bool(b % 2 or action == 5))
        if action < 3:
            self.admit(a, b, c)
        elif handle is None or action > 9:
            self.step(a, b, c)
        elif action in (3, 4):
            self.core.free(longs(handle), True)
            self.model.free(handle)
        elif action == 5:
            handles, cached, copies = self.core.resume(longs(handle))
            admitted, expected = self.model.resume([handle])
            assert (len(handles), copies.tolist()) == (len(admitted), expected)
            assert cached.tolist() == [s.len for s in admitted]
        elif action == 6 and len(self.model.sequences) < ROWS - 2:
            self.model.fork(handle, self.core.fork(handle, b % 3).tolist())
        elif action == 7:
            count = b % 5 if c % 4 else b % (WIDTH * self.model.size)
            self.both(self.core.rollback, (longs(handle), longs(count)), self.model.rollback, (handle, count))
        elif action == 8:
            self.both(self.core.preempt, (longs(handle),), self.model.preempt, (handle,))
        elif b % 3 == 0:
            self.core.expire(self.model.now + c % 2)
            self.model.expire(self.model.now + c % 2)
        elif b % 12 == 1:
            self.model.epoch += 1
            assert self.core.reset(self.model.epoch)
            self.model.reset()
        elif b % 12 == 2:
            assert self.core.evict(c % 5) == self.model.evict(c % 5)
        else:
            self.core.commit(longs(handle))
            self.model.commit(self.model.sequences[handle])

    def both(self, call, arguments, model_call, model_arguments):
        """What one refuses the other refuses."""
        try:
            expected = model_call(*model_arguments)
        except Refused:
            with pytest.raises(ValueError, match=r"."):
                call(*arguments)
            return None
        return call(*arguments), expected

    def admit(self, a: int, b: int, c: int) -> None:
        size, prompts = self.model.size, []
        if len(self.model.sequences) > ROWS - 4:
            return
        for i in range(1 + a % 2):
            # Few texts, which agree for a while and then do not.
            base = [(a >> i) % 2] * (b % (3 * size)) + [1, 0, 1, 1, 0] * 4
            prompts.append([t ^ (c >> i & (n == c % 23)) for n, t in enumerate(base[: 1 + (b + i) % 17])])
        n = len(prompts)
        settings_ = {
            "namespaces": [b"ab"[: (c >> 9) % 2] for _ in range(n)],
            "priorities": [[0, 0, 1, 31][(b >> 8) % 4] for _ in range(n)],
            "until": [self.model.now + (c >> 10) % 3 for _ in range(n)],
            "reserves": [(b >> 10) % 4 for _ in range(n)],
        }
        flat = np.array([t for p in prompts for t in p], [np.uint32, np.int32, np.int64][c % 3])
        types = (np.uint8, np.uint32, np.int64)
        arrays = [np.array(v, t) for v, t in zip(list(settings_.values())[1:], types, strict=True)]
        offsets = np.cumsum([0, *map(len, prompts)])
        got = self.both(
            self.core.admit, (flat, offsets, settings_["namespaces"], *arrays),
            self.model.admit, (prompts, *settings_.values()),
        )  # fmt: skip
        if got:
            (handles, cached, copies), (admitted, expected, read) = got
            assert cached.tolist() == [s.len for s in admitted]
            assert copies.tolist() == expected
            self.model.name(admitted, handles.tolist(), read)

    def step(self, a: int, b: int, c: int) -> None:
        running = [h for h, s in self.model.sequences.items() if not s.is_preempted]
        handles = running[:: 1 + b % 2] if a % 3 else running[::-1]
        chosen, counts, tokens = [self.model.sequences[h] for h in handles], [], []
        for i, s in enumerate(chosen):
            missing = len(s.tokens) - s.len
            count = 1 + (a >> i) % missing if missing > 0 else [1, 1, 0, 3][(a >> i) % 4]
            counts.append(min(count, WIDTH * self.model.size - s.len))
            tokens += [(c >> n) % 2 for n in range(max(s.len + counts[-1] - len(s.tokens), 0))]
        num_groups = len(self.model.groups)
        slots = np.full(num_groups * (sum(counts) + 1), -1, np.int32)
        lengths = np.zeros(ROWS, np.int32)
        if b % 7 == 0:
            self.tables = np.full_like(self.tables, -1)
        given = longs(*handles), longs(*counts), np.array(tokens, np.int64), self.tables, slots, lengths
        got = self.both(self.core.step, given, self.model.step, (handles, counts, list(tokens)))
        if got is None:
            return
        assert got[0].tolist() == got[1]
        assert lengths[: len(chosen)].tolist() == [s.len for s in chosen]
        for g in range(num_groups):
            expected = [
                self.slot(s, g, p)
                for s, n in zip(chosen, counts, strict=True)
                for p in range(s.len - n, s.len)
            ]
            assert slots.reshape(num_groups, -1)[g, : len(expected)].tolist() == expected
            for row, s in enumerate(chosen):
                for place, blocks in enumerate(s.blocks):
                    assert blocks[g] is None or self.tables[g, row, place] == blocks[g]

    def slot(self, s: Sequence, g: int, position: int) -> int:
        block = s.blocks[position // self.model.size][g]
        assert block is not None
        return block * self.model.size + position % self.model.size

    def compare(self) -> None:
        self.core.check()
        assert self.core.num_available() == [pool.num_available for pool in self.model.pools]
        assert self.core.num_cached() == [len(pool.cached) for pool in self.model.pools]
        assert self.core.stats()["num_stored"] == len(self.model.index)
        self.router.read(Events(*self.core.events()))
        assert set(self.router.nodes.values()) == set(self.model.index)
        assert len(self.router.nodes) == len(self.model.index)


def longs(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


@pytest.mark.parametrize("name", SHAPES)
@given(
    actions=ACTIONS, block_size=st.integers(1, 4), watermark=st.integers(0, 2), has_equal_hashes=st.booleans()
)
@settings(deadline=None)
def test_any_history_is_that_of_the_model(name, actions, block_size, watermark, has_equal_hashes) -> None:
    pair = Pair(SHAPES[name], block_size, watermark, has_equal_hashes)
    for action in actions:
        pair.run(*action)
        pair.compare()


class ForwardFrees(Model):
    """The mutant: the beginning of a sequence is given back before its end, and so evicted first."""

    def release_from(self, s, place):
        rows, s.blocks = s.blocks[place:], s.blocks[:place]
        for row in rows:
            for g, block in enumerate(row):
                self.release(g, block, s)


class WholeHits(Model):
    """The mutant: a prompt that is there as a whole leaves nothing to compute."""

    def find(self, s):
        nodes = []
        while s.node(len(nodes) + 1, self.size) in self.index and (len(nodes) + 1) * self.size <= len(
            s.tokens
        ):
            nodes.append(s.node(len(nodes) + 1, self.size))
        return nodes, None


class EagerStore(Model):
    """The mutant: drafts are stored by the step that is to write them."""

    def step(self, handles, counts, tokens):
        copies = super().step(handles, counts, tokens)
        for handle in handles:
            self.commit(self.sequences[handle])
        return copies


class OneNamespace(Model):
    """The mutant: adapters and tenants are not in the key."""

    def admit(self, prompts, namespaces, *settings_):
        return super().admit(prompts, [b""] * len(prompts), *settings_)


class Remembering(Model):
    """The mutant: new weights, old keys."""

    def reset(self):
        pass


class PromptOnly(Model):
    """The mutant: a preempted sequence comes back without what it had said."""

    def preempt(self, handle):
        s = self.sequences[handle]
        said = s.target
        super().preempt(handle)
        del s.tokens[max(said, 1) :]


@pytest.mark.parametrize(
    "mutant",
    [ForwardFrees, WholeHits, EagerStore, OneNamespace, Remembering, PromptOnly],
    ids=lambda m: m.__name__,
)
def test_a_model_with_a_known_bug_is_told_from_the_manager(mutant) -> None:
    """The traps of paged caches: each mutant disagrees with the manager somewhere in random histories."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        pair = Pair(SHAPES["one group"], 2, 0, False)
        pair.model = mutant(SHAPES["one group"], 2, 0)
        try:
            for _ in range(40):
                pair.run(int(rng.integers(16)), *rng.integers(0, 1 << 16, 3).tolist())
                pair.compare()
        except (AssertionError, KeyError, IndexError, ValueError, pytest.fail.Exception):
            return
    pytest.fail(f"{mutant.__name__} was not noticed")
