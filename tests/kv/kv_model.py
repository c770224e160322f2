"""The KV manager in plain Python: lists and dictionaries, and the same choices, so that every number agrees.

A node of the prefix index is its whole prefix: (namespace, tokens of all blocks up to here).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tempa.kv import CLEARED, REMOVED, STORED, Events, Group

MAX_SIBLINGS = 64
ALWAYS = 2**32 - 1
Node = tuple[bytes, tuple[tuple[int, ...], ...]]


class Refused(Exception):  # noqa: N818 - it is no error of the model
    """The manager has to raise too, and nothing may change."""


@dataclass
class Sequence:
    namespace: bytes
    tokens: list[int]
    target: int
    priority: int
    until: int
    num_groups: int
    blocks: list[list[int | None]] = field(default_factory=list)  # of each place, one a group
    len: int = 0
    num_stored: int = 0
    is_stale: bool = False
    is_preempted: bool = False
    kept: list[int] = field(default_factory=list)

    def node(self, num_places: int, block_size: int) -> Node:
        cuts = range(0, num_places * block_size, block_size)
        return self.namespace, tuple(tuple(self.tokens[i : i + block_size]) for i in cuts)


class Pool:
    """Counts, free blocks (the last one goes first) and cached blocks (the first one goes first)."""

    def __init__(self, num_blocks: int) -> None:
        self.count = [0] * num_blocks
        self.node: list[Node | None] = [None] * num_blocks
        self.priority, self.until = [0] * num_blocks, [0] * num_blocks
        self.free = list(range(num_blocks))[::-1]
        self.cached: list[int] = []  # in the order in which they were left

    @property
    def num_available(self) -> int:
        return len(self.free) + len(self.cached)

    def oldest(self) -> int | None:
        # Stable: of the lowest priority, the one that was left first.
        return min(self.cached, key=lambda block: self.priority[block], default=None)

    def acquire(self, block: int) -> None:
        if not self.count[block]:
            self.cached.remove(block)
        self.count[block] += 1

    def discard(self, block: int) -> None:
        self.cached.remove(block)
        self.node[block] = None
        self.free.append(block)

    def release(self, block: int, priority: int, until: int, now: int) -> None:
        if self.until[block] <= now:
            self.priority[block] = 0
        if priority and until > now:
            self.priority[block] = max(self.priority[block], priority)
            self.until[block] = max(self.until[block], until)
        self.count[block] -= 1
        if not self.count[block]:
            (self.free if self.node[block] is None else self.cached).append(block)


@dataclass
class Router:
    """The stored nodes by their numbers, as known to who reads the events and nothing else."""

    size: int
    nodes: dict[int, Node] = field(default_factory=dict)

    def read(self, events: Events) -> None:
        blocks = iter(events.tokens.reshape(-1, self.size).tolist())
        names = iter(events.namespaces)
        for kind, entry, parent in zip(events.kinds, events.entries, events.parents, strict=True):
            if kind == STORED:
                assert entry not in self.nodes
                name, chain = (next(names), ()) if parent < 0 else self.nodes[parent]
                self.nodes[entry] = name, (*chain, tuple(next(blocks)))
            elif kind == REMOVED:
                del self.nodes[entry]
            else:
                assert kind == CLEARED
                self.nodes.clear()
        assert next(blocks, None) is None
        assert next(names, None) is None


class Model:
    def __init__(self, groups: list[Group], block_size: int, watermark: int) -> None:
        self.groups, self.size, self.watermark = groups, block_size, watermark
        self.pools = [Pool(group.num_blocks) for group in groups]
        # Nodes from the oldest to the newest, with their blocks.
        self.index: dict[Node, list[int | None]] = {}
        self.capacity = max(group.num_blocks for group in groups)
        self.sequences: dict[int, Sequence] = {}
        self.now = self.epoch = 0

    # What a group keeps and sees.

    def sinks(self, g: int) -> int:
        return -(-self.groups[g].sinks // self.size)

    def first_seen(self, g: int, position: int) -> int:
        window = self.groups[g].window
        return 0 if window is None else max(position + 1 - window, 0) // self.size

    def keeps(self, g: int, num_tokens: int) -> int:
        places, window = -(-num_tokens // self.size), self.groups[g].window
        return places if window is None else min(places, self.sinks(g) - (-(window - 1) // self.size) + 1)

    def promised(self, g: int) -> int:
        total = 0
        for s in self.sequences.values():
            if not s.is_preempted:
                held = len(s.blocks) - max(s.kept[g] - self.sinks(g), 0)
                total += max(self.keeps(g, max(s.target, len(s.tokens))) - held, 0)
        return total

    # Blocks.

    def take(self, g: int) -> int:
        pool = self.pools[g]
        if not pool.free:
            assert self.evict_one(g)
        block = pool.free.pop()
        pool.count[block], pool.priority[block], pool.until[block] = 1, 0, 0
        return block

    def evict_one(self, g: int) -> bool:
        oldest = self.pools[g].oldest()
        if oldest is None:
            return False
        node = self.pools[g].node[oldest]
        assert node is not None
        for other in range(len(self.groups)) if self.groups[g].window is None else [g]:
            block = self.index[node][other]
            if block is not None:
                self.pools[other].discard(block)
                self.index[node][other] = None
        self.prune()
        return True

    def prune(self) -> None:
        """Drop nodes without blocks, children and sequences that end there."""
        while True:
            needed = {(name, chain[:-1]) for name, chain in self.index}
            needed |= {s.node(s.num_stored, self.size) for s in self.sequences.values()}
            gone = [n for n, blocks in self.index.items() if not any(b is not None for b in blocks)]
            gone = [node for node in gone if node not in needed]
            if not gone:
                return
            for node in gone:
                del self.index[node]

    def release(self, g: int, block: int | None, s: Sequence) -> None:
        if block is not None:
            self.pools[g].release(block, s.priority, s.until, self.now)

    def release_from(self, s: Sequence, place: int) -> None:
        while len(s.blocks) > place:
            for g, block in reversed(list(enumerate(s.blocks.pop()))):
                self.release(g, block, s)

    def commit(self, s: Sequence) -> None:
        end = 0 if s.is_stale else min(s.len, len(s.tokens)) // self.size
        while s.num_stored < end:
            node, own = s.node(s.num_stored + 1, self.size), s.blocks[s.num_stored]
            if node in self.index:
                for g, (block, stored) in enumerate(zip(own, self.index[node], strict=True)):
                    count = self.pools[g].count
                    differ = block is not None and stored is not None and block != stored
                    if differ and not count[stored] and count[block] != 1:
                        return
            else:
                while len(self.index) == self.capacity:
                    if not any(self.evict_one(g) for g in range(len(self.groups))):
                        return
                self.index[node] = [None] * len(self.groups)
            s.num_stored += 1
            for g, block in enumerate(own):
                stored = self.index[node][g]
                if block is None or block == stored:
                    continue
                if stored is None:
                    self.index[node][g] = block
                    self.pools[g].node[block] = node
                else:
                    self.pools[g].acquire(stored)
                    self.release(g, block, s)
                    own[g] = stored

    # Admission.

    def find(self, s: Sequence) -> tuple[list[Node], tuple[Node, int] | None]:
        limit = len(s.tokens) - 1
        nodes: list[Node] = []
        while (len(nodes) + 1) * self.size <= len(s.tokens) and s.node(
            len(nodes) + 1, self.size
        ) in self.index:
            nodes.append(s.node(len(nodes) + 1, self.size))
        hit = min(limit // self.size, len(nodes))
        while not self.is_usable(nodes, hit):
            hit -= 1
        rest = s.tokens[hit * self.size : limit][: self.size]
        if hit < len(nodes) and None not in self.index[nodes[hit]]:
            return nodes[:hit], (nodes[hit], len(rest)) if rest else None
        parent, best = s.node(hit, self.size), (0, None)
        children = [n for n in reversed(self.index) if n[0] == s.namespace and n[1][:-1] == parent[1]]
        for child in children[:MAX_SIBLINGS]:
            pairs = zip(child[1][-1], rest, strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), len(rest))
            if common > best[0] and None not in self.index[child]:
                best = common, child
        return nodes[:hit], None if best[1] is None else (best[1], best[0])

    def is_usable(self, nodes: list[Node], hit: int) -> bool:
        for g in range(len(self.groups)):
            first = self.first_seen(g, hit * self.size)
            for place in [*range(min(self.sinks(g), first)), *range(first, hit)]:
                if self.index[nodes[place]][g] is None:
                    return False
        return True

    def has_room(self, s: Sequence, nodes: list[Node], partial: tuple[Node, int] | None) -> bool:
        for g, pool in enumerate(self.pools):
            needed = self.keeps(g, max(s.target, len(s.tokens)))
            first = self.first_seen(g, len(nodes) * self.size)
            for place, node in enumerate(nodes):
                if place >= first or place < self.sinks(g):
                    needed -= pool.count[self.index[node][g]] > 0
            needed = max(needed, 0)
            if partial is not None:
                needed += not pool.count[self.index[partial[0]][g]]
            if needed + self.promised(g) + self.watermark > pool.num_available:
                return False
        return True

    def place(self, s: Sequence, copies: list[list[int]], read: list[tuple[int, int]]) -> bool:
        nodes, partial = self.find(s)
        if not self.has_room(s, nodes, partial):
            if partial is None or not self.has_room(s, nodes, None):
                return False
            partial = None
        firsts = [self.first_seen(g, len(nodes) * self.size) for g in range(len(self.groups))]
        s.kept = [first if first > self.sinks(g) else 0 for g, first in enumerate(firsts)]
        for place, node in enumerate(nodes):
            row = list(self.index[node])
            for g in range(len(self.groups)):
                if self.sinks(g) <= place < s.kept[g]:
                    row[g] = None
                if row[g] is not None:
                    self.pools[g].acquire(row[g])
            s.blocks.append(row)
        s.num_stored, s.len = len(nodes), len(nodes) * self.size
        if partial is not None:
            sources = list(self.index[partial[0]])
            for g, source in enumerate(sources):
                self.pools[g].acquire(source)
                read.append((g, source))
            s.blocks.append([self.take(g) for g in range(len(self.groups))])
            copies += [[g, sources[g], s.blocks[-1][g], partial[1]] for g in range(len(sources))]
            s.len += partial[1]
        return True

    def admit(self, prompts, namespaces, priorities, until, reserves):
        for prompt, reserve in zip(prompts, reserves, strict=True):
            for g, group in enumerate(self.groups):
                if self.keeps(g, len(prompt) + reserve) + self.watermark > group.num_blocks:
                    raise Refused
        admitted, copies, read = [], [], []
        for i, prompt in enumerate(prompts):
            s = Sequence(
                namespaces[i],
                list(prompt),
                len(prompt) + reserves[i],
                priorities[i],
                until[i],
                len(self.groups),
            )
            if not self.place(s, copies, read):
                break
            # Counted as promised from here on, under a name until its handle is known.
            self.sequences[-1 - i] = s
            admitted.append(s)
        return admitted, copies, read

    def name(self, admitted: list[Sequence], handles: list[int], read: list[tuple[int, int]]) -> None:
        for i, handle in enumerate(handles):
            self.sequences[handle] = self.sequences.pop(-1 - i)
        self.end_admission(read)

    def end_admission(self, read: list[tuple[int, int]]) -> None:
        for g, block in read:
            self.pools[g].release(block, 0, 0, self.now)

    def resume(self, handles: list[int]):
        admitted, copies, read = [], [], []
        for handle in handles:
            s = self.sequences[handle]
            if not self.place(s, copies, read):
                break
            s.is_preempted = s.is_stale = False
            admitted.append(s)
        self.end_admission(read)
        return admitted, copies

    # The step.

    def unseen(self, s: Sequence, g: int) -> range:
        return range(max(s.kept[g], self.sinks(g)), max(self.first_seen(g, s.len), self.sinks(g)))

    def shared_tail(self, s: Sequence, g: int) -> int | None:
        if s.len % self.size == 0:
            return None
        tail = s.blocks[-1][g]
        is_own = self.pools[g].count[tail] == 1 and self.pools[g].node[tail] is None
        return None if is_own else tail

    def step(self, handles: list[int], counts: list[int], tokens: list[int]) -> list[list[int]]:
        chosen = [self.sequences[handle] for handle in handles]
        for s in chosen:
            self.commit(s)
        self.prune()
        for g, pool in enumerate(self.pools):
            needed, gained, before = 0, 0, list(pool.count)
            for s, count in zip(chosen, counts, strict=True):
                for place in self.unseen(s, g):
                    pool.count[s.blocks[place][g]] -= 1
                    gained += pool.count[s.blocks[place][g]] == 0
                needed += -(-(s.len + count) // self.size) - len(s.blocks)
                if count and (tail := self.shared_tail(s, g)) is not None:
                    needed += 1
                    pool.count[tail] -= pool.node[tail] is None
            pool.count = before
            if needed > pool.num_available + gained:
                raise Refused
        for s in chosen:
            for g in range(len(self.groups)):
                unseen = self.unseen(s, g)
                if unseen:
                    s.kept[g] = unseen.stop
                    for place in reversed(unseen):
                        self.release(g, s.blocks[place][g], s)
                        s.blocks[place][g] = None
        copies, read = [], []
        for s, count in zip(chosen, counts, strict=True):
            for g in range(len(self.groups)):
                source = self.shared_tail(s, g) if count else None
                if source is None:
                    continue
                s.blocks[-1][g] = self.take(g)
                copies.append([g, source, s.blocks[-1][g], s.len % self.size])
                if self.pools[g].node[source] is None:
                    self.release(g, source, s)
                else:
                    read.append((g, source, s))
            while count and len(s.blocks) * self.size < s.len + count:
                s.blocks.append([self.take(g) for g in range(len(self.groups))])
        for g, block, s in read:
            self.release(g, block, s)
        for s, count in zip(chosen, counts, strict=True):
            s.len += count
            while len(s.tokens) < s.len:
                s.tokens.append(tokens.pop(0))
        self.prune()
        return copies

    def fork(self, handle: int, forks: list[int]) -> None:
        s = self.sequences[handle]
        for fork in forks:
            self.sequences[fork] = Sequence(
                s.namespace, list(s.tokens), 0, s.priority, s.until, s.num_groups,
                [list(row) for row in s.blocks], s.len, s.num_stored, s.is_stale, False, list(s.kept),
            )  # fmt: skip
            for row in s.blocks:
                for g, block in enumerate(row):
                    if block is not None:
                        self.pools[g].acquire(block)

    def rollback(self, handle: int, count: int) -> None:
        s = self.sequences[handle]
        length = s.len - count
        if length < 0 or len(s.tokens) > s.len:
            raise Refused
        for g in range(len(self.groups)):
            if s.kept[g] > max(self.first_seen(g, length), self.sinks(g)):
                raise Refused
        s.len, s.num_stored = length, min(s.num_stored, length // self.size)
        del s.tokens[length:]
        self.release_from(s, -(-length // self.size))
        self.prune()

    def vacate(self, s: Sequence) -> None:
        self.commit(s)
        self.release_from(s, 0)
        s.len = s.num_stored = 0
        s.kept = [0] * len(self.groups)

    def preempt(self, handle: int) -> None:
        s = self.sequences[handle]
        if not s.tokens:
            raise Refused
        self.vacate(s)
        s.is_preempted = True
        self.prune()

    def free(self, handle: int) -> None:
        s = self.sequences[handle]
        if not s.is_preempted:
            self.vacate(s)
        del self.sequences[handle]
        self.prune()

    def evict(self, num_blocks: int) -> list[int]:
        before = [len(pool.free) for pool in self.pools]
        for g, pool in enumerate(self.pools):
            while len(pool.free) - before[g] < num_blocks and self.evict_one(g):
                pass
        return [len(pool.free) - free for pool, free in zip(self.pools, before, strict=True)]

    def reset(self) -> None:
        for s in self.sequences.values():
            s.num_stored, s.is_stale = 0, True
        self.index.clear()
        for pool in self.pools:
            while (block := pool.oldest()) is not None:
                pool.discard(block)
            pool.node = [None] * len(pool.node)

    def expire(self, now: int) -> None:
        self.now = now
        for pool in self.pools:
            late = [b for b in pool.cached if pool.priority[b] and pool.until[b] <= now]
            late.sort(key=lambda block: pool.priority[block])
            for block in late:
                pool.cached.remove(block)
                pool.priority[block] = 0
                pool.cached.append(block)
