"""Events: what a router learns from them, and when. Random histories are in `test_model.py`."""

from __future__ import annotations

import numpy as np
from kv_model import Router

from tempa.kv import CLEARED, REMOVED, STORED, KvManager


def remember(kv: KvManager, prompt: list[int], namespace: bytes = b"") -> None:
    """Admit, write and free a prompt."""
    handles, num_cached, _ = kv.admit([prompt], namespaces=[namespace])
    tables, slots, lengths = np.zeros((1, 64), np.int32), np.zeros(64, np.int32), np.zeros(1, np.int32)
    kv.step(handles, len(prompt) - num_cached, None, tables, slots, lengths)
    kv.free(handles)


def test_what_is_stored_comes_with_its_tokens_its_parent_and_at_the_beginning_its_namespace() -> None:
    kv = KvManager(8, block_size=2, has_events=True)
    remember(kv, [1, 2, 3, 4, 5], b"adapter")
    remember(kv, [1, 2, 6, 7], b"adapter")
    events = kv.events()
    assert events.kinds.tolist() == [STORED] * 3
    first, second, third = events.entries.tolist()
    assert len({first, second, third}) == 3
    assert events.parents.tolist() == [-1, first, first]
    assert events.tokens.tolist() == [1, 2, 3, 4, 6, 7]
    assert events.namespaces == [b"adapter"]


def test_the_log_begins_anew_when_it_is_taken_and_is_empty_unless_wanted() -> None:
    kv, silent = (KvManager(8, block_size=2, has_events=wanted) for wanted in (True, False))
    for manager in (kv, silent):
        remember(manager, [1, 2, 3, 4])
    assert len(kv.events().kinds) == 2
    for manager in (kv, silent):
        events = manager.events()
        assert not any(map(len, events))


def test_ends_are_removed_first_and_their_numbers_are_given_again() -> None:
    kv = KvManager(4, block_size=2, has_events=True)
    remember(kv, [1, 2, 3, 4, 5, 6, 7, 8])
    stored = kv.events().entries.tolist()
    kv.evict(3)
    events = kv.events()
    assert events.kinds.tolist() == [REMOVED] * 3
    assert events.entries.tolist() == stored[:0:-1]
    remember(kv, [9, 9])
    events = kv.events()
    assert events.parents.tolist() == [-1]
    assert events.entries.tolist()[0] in stored[1:]


def test_a_reset_clears_all_at_once() -> None:
    kv = KvManager(8, block_size=2, has_events=True)
    remember(kv, [1, 2, 3, 4])
    kv.reset(1)
    remember(kv, [5, 6])
    events = kv.events()
    assert events.kinds.tolist() == [STORED, STORED, CLEARED, STORED]
    router = Router(2)
    router.read(events)
    assert set(router.nodes.values()) == {(b"", ((5, 6),))}


def test_a_router_knows_what_a_request_would_find() -> None:
    """Only what is in the log decides, for caches that forget."""
    rng = np.random.default_rng(0)
    kv, router = KvManager(24, block_size=2, has_events=True), Router(2)
    for _ in range(300):
        prompt, name = rng.integers(0, 2, rng.integers(1, 24)).tolist(), b"ab"[: rng.integers(2)]
        router.read(kv.events())
        known, num_found = set(router.nodes.values()), 0
        chain: tuple[tuple[int, ...], ...] = ()
        for i in range(0, len(prompt) - 2, 2):
            chain = (*chain, tuple(prompt[i : i + 2]))
            if (name, chain) not in known:
                break
            num_found += 2
        handles, num_cached, _ = kv.admit([prompt], namespaces=[name])
        assert int(num_cached[0]) // 2 * 2 == num_found
        kv.free(handles)
        remember(kv, prompt, name)
