"""KV managers: ours beside vLLM's and SGLang's on the CPU, in one process

    python benches/kv_peers.py [--vllm DIR] [--sglang FILE]

DIR holds vllm, unpacked from its wheel; FILE is the extension rust_tree_core/mem_cache of sglang's wheel.
Their imports need torch and a few more packages, but no GPU; ours is imported beside them. Blocks have 16
tokens, token ids are random and the same for all. Ours admits a prompt by two calls, from its tokens to its
block table and slots; vLLM's time has its hashes (sha256, its default) and not its tables. What is hit is
compared, and how much is evicted. SGLang's tree says which leaf goes and is told to let it go, as its cache
does for each request. The sides take turns, because machines change their speed. Process CPU time.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.util
import os
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.kv import KvManager

OUT = Path(__file__).with_name("results") / "kv_peers.json"
BLOCK, PROMPT, POOL = 16, 8192, 16384
TURNS = 8
COLD = "admit 8,192 new tokens and free them, pool full"
HOT = "admit 8,192 known tokens"
STEP = "a token for each of 256 sequences"
INSERT = "look up and store 8,192 tokens"
EVICT = "evict 64 tokens below 20,000 leaves"
Ids = NDArray[np.uint32]


class Side(NamedTuple):
    """What is timed for each item, after what is not."""

    work: Callable[[Any], Any]
    items: Sequence[Any]
    before: Callable[[Any], Any] = id


def compare(name: str, sides: dict[str, Side]) -> None:
    """Times all sides, which take turns."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(TURNS):
        for side, (work, items, before) in sides.items():
            gc.collect()
            for item in items[turn * len(items) // TURNS : (turn + 1) * len(items) // TURNS]:
                before(item)
                start = time.process_time_ns()
                work(item)
                times[side].append((time.process_time_ns() - start) / 1e9)
    for side, values in times.items():
        keep(name, side, values)


class Ours:
    def __init__(self, num_blocks: int = POOL) -> None:
        self.kv = KvManager(num_blocks, block_size=BLOCK)
        self.tables = np.zeros((256, PROMPT // BLOCK + 64), np.int32)
        self.slots = np.zeros(2 * PROMPT, np.int32)
        self.lengths = np.zeros(256, np.int32)
        self.none = np.zeros(0, np.uint32)

    def admit(self, prompt: Ids) -> NDArray[np.int64]:
        handles, cached, _ = self.kv.admit_flat(prompt, np.array([0, len(prompt)]))
        self.kv.step(handles, len(prompt) - cached, self.none, self.tables, self.slots, self.lengths)
        return handles


class Vllm:
    def __init__(self, num_blocks: int = POOL) -> None:
        import torch
        from vllm.sampling_params import SamplingParams
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.request import Request

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)
        groups = [KVCacheGroupSpec(["layer"], spec)]
        config = KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=groups)
        self.manager = KVCacheManager(
            config,
            max_model_len=131072,
            scheduler_block_size=BLOCK,
            hash_block_size=BLOCK,
            enable_caching=True,
        )
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self.request = Request
        self.settings = {
            "sampling_params": SamplingParams(max_tokens=100000),
            "pooling_params": None,
            "block_hasher": get_request_block_hasher(BLOCK, hash_function),
        }
        self.num_requests = 0

    def admit(self, prompt: list[int]) -> Any:
        self.num_requests += 1
        request = self.request(request_id=str(self.num_requests), prompt_token_ids=prompt, **self.settings)
        blocks, num_cached, _ = self.manager.get_computed_blocks(request)
        assert self.manager.allocate_slots(request, request.num_tokens - num_cached, num_cached, blocks)
        self.num_cached = num_cached
        return request


class SglangTree:
    def __init__(self, path: str) -> None:
        import torch

        spec = importlib.util.spec_from_file_location("mem_cache", path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        settings = self.module.TreeCoreInitParamsBinding(eviction_policy="lru", page_size=BLOCK, device="cpu")
        self.core = self.module.RustUnifiedTreeCoreBinding(settings, [0])
        self.slots = torch.arange(PROMPT)

    def insert(self, key: array[int]) -> None:
        self.core.match_prefix(self.module.MatchParamsBinding(key=key))
        params = self.module.InsertParamsBinding(key=key, value=self.slots[: len(key)])
        state = self.core.begin_insert(params)
        while state.result is None:
            state = self.core.resume_insert()
        if self.core.has_ongoing_insert():
            self.core.end_insert()

    def evict(self, num_tokens: int) -> None:
        self.core.evict_device_start(0, num_tokens)
        num_freed = 0
        while num_freed < num_tokens:
            leaf = self.core.evict_device_next_node(0, {0: num_freed}).node_id
            num_freed += self.core.evict_device_leaf(leaf).tracker[0]
        self.core.evict_device_end(0)


def prompts_of(count: int, length: int, seed: int = 0) -> list[Ids]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 128000, length, np.uint32) for _ in range(count)]


def admissions(has_vllm: bool) -> None:
    """New prompts in a full pool, then one known prompt again and again."""
    prompts = prompts_of(34 + 10 * TURNS, PROMPT)
    ours = Ours()

    def cold(prompt: Ids) -> None:
        ours.kv.free(ours.admit(prompt))

    for prompt in prompts[:34]:
        cold(prompt)
    sides = {"ours": Side(cold, prompts[34:])}
    if has_vllm:
        theirs = Vllm()
        lists = [prompt.tolist() for prompt in prompts]

        def their_cold(prompt: list[int]) -> None:
            theirs.manager.free(theirs.admit(prompt))

        for known in lists[:34]:
            their_cold(known)
        sides["vllm"] = Side(their_cold, lists[34:])
    compare(COLD, sides)
    hit = ours.kv.admit_flat(prompts[-1], np.array([0, PROMPT]))
    ours.kv.free(hit.handles)
    sides["ours"] = Side(ours.admit, [prompts[-1]] * 100)
    if has_vllm:
        sides["vllm"] = Side(theirs.admit, [lists[-1]] * 100)
    compare(HOT, sides)
    # Both leave the last block; ours copies its beginning, so that one token is left.
    assert hit.num_cached.tolist() == [PROMPT - 1]
    assert not has_vllm or theirs.num_cached == PROMPT - BLOCK


def steps(has_vllm: bool) -> None:
    """Decoding: one token a sequence, over many blocks."""
    prompts, tokens = prompts_of(256, 512, seed=1), prompts_of(16 * TURNS, 256, seed=2)
    ours = Ours(65536)
    handles = np.concatenate([ours.admit(prompt) for prompt in prompts])
    arrays = ours.tables, ours.slots, ours.lengths
    sides = {"ours": Side(lambda ids: ours.kv.step(handles, None, ids, *arrays), tokens)}
    if has_vllm:
        theirs = Vllm(65536)
        requests = [theirs.admit(prompt.tolist()) for prompt in prompts]

        def told(ids: list[int]) -> None:
            for request, token in zip(requests, ids, strict=True):
                request.num_computed_tokens = request.num_tokens
                request.append_output_token_ids(token)

        def step(_: list[int]) -> None:
            for request in requests:
                theirs.manager.allocate_slots(request, 1)

        sides["vllm"] = Side(step, [ids.tolist() for ids in tokens], told)
    compare(STEP, sides)
    assert ours.lengths.tolist() == [512 + len(tokens)] * 256


def trees(path: str | None) -> None:
    """Storing prompts, and evicting below many leaves."""
    prompts = prompts_of(60, PROMPT, seed=3)
    shared, ends = prompts_of(1, 1024, seed=4)[0], prompts_of(20_000, 64, seed=5)
    ours, leaves = Ours(65536), Ours(64 + 4 * len(ends))
    for end in ends:
        leaves.kv.free(leaves.admit(np.concatenate([shared, end])))
    assert leaves.kv.num_available == [64 + 4 * len(ends)]
    assert leaves.kv.num_cached == leaves.kv.num_available
    inserts = {"ours": Side(lambda prompt: ours.kv.free(ours.admit(prompt)), prompts)}
    evictions = {"ours": Side(leaves.kv.evict, [64 // BLOCK] * 50)}
    if path is not None:
        tree = SglangTree(path)
        keys = [array("q", prompt.tolist()) for prompt in prompts]
        inserts["sglang"] = Side(tree.insert, keys)
        their_leaves = SglangTree(path)
        for end in ends:
            their_leaves.insert(array("q", np.concatenate([shared, end]).tolist()))
        evictions["sglang"] = Side(their_leaves.evict, [64] * 50)
    compare(INSERT, inserts)
    compare(EVICT, evictions)
    assert leaves.kv.num_cached == [64 + 4 * (len(ends) - 50)]
    assert path is None or their_leaves.core.evictable_size() == 1024 + 64 * (len(ends) - 50)


def memory() -> None:
    kv = Ours(4096).kv
    keep("memory of a stored block, its 64 bytes of tokens included", "ours", [kv._core.bytes_per_block], "B")


def keep(name: str, side: str, values: list[float], unit: str = "s") -> None:
    median, iqr = summary(values)
    row = Result(
        title=(__doc__ or "").splitlines()[0],
        group="KV manager, blocks of 16 tokens, through Python",
        name=name, side=side, unit=unit, median=median, iqr=iqr, rounds=len(values), ratio=None,
        machine=machine(), versions=versions("numpy", "torch") | PEERS, date=TODAY,
        command="python benches/kv_peers.py",
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{name}: {side} {median:.4g} {unit}", flush=True)


TODAY = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
PEERS: dict[str, str] = {}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm", help="directory that holds vllm")
    parser.add_argument("--sglang", help="its extension mem_cache")
    options = parser.parse_args()
    if options.vllm:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        sys.path.insert(0, options.vllm)
        import vllm

        PEERS["vllm"] = vllm.__version__
    if options.sglang:
        PEERS["sglang"] = "0.5.23"
    admissions(bool(options.vllm))
    steps(bool(options.vllm))
    trees(options.sglang)
    memory()
    return 0


if __name__ == "__main__":
    sys.exit(main())
