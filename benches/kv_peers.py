"""KV managers: ours beside vLLM's and SGLang's on the CPU, in one process

    python benches/kv_peers.py [--vllm DIR] [--sglang FILE]

DIR holds vllm, unpacked from its wheel; FILE is the extension rust_tree_core/mem_cache of sglang's wheel.
Their imports need torch and a few more packages, but no GPU; ours is imported beside them. Blocks have 16
tokens, token ids are random and the same for all. Ours admits a prompt by two calls, from its tokens to its
block table and slots; vLLM's time has its hashes (sha256, its default) and not its tables. What is hit is
compared. To make room, ours admits a prompt of 64 tokens, which has to evict; SGLang's tree evicts alone.
Process CPU time.
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.kv import KvManager

OUT = Path(__file__).with_name("results") / "kv_peers.json"
BLOCK, PROMPT, POOL = 16, 8192, 16384
COLD = "admit 8,192 new tokens and free them, pool full"
HOT = "admit 8,192 known tokens"
STEP = "a token for each of 256 sequences"
INSERT = "look up and store 8,192 tokens"
EVICT = "make room for 64 tokens below 20,000 leaves"
Ids = NDArray[np.uint32]


def timed(work: Callable[[Any], Any], items: Iterable[Any]) -> list[float]:
    times = []
    gc.collect()
    for item in items:
        start = time.process_time_ns()
        work(item)
        times.append((time.process_time_ns() - start) / 1e9)
    return times


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


def prompts_of(count: int, length: int, seed: int = 0) -> list[Ids]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 128000, length, np.uint32) for _ in range(count)]


def admissions(has_vllm: bool) -> None:
    """New prompts in a full pool, then one known prompt again and again."""
    prompts = prompts_of(60, PROMPT)
    ours = Ours()
    for prompt in prompts[:34]:
        ours.kv.free(ours.admit(prompt))
    keep(COLD, "ours", timed(lambda prompt: ours.kv.free(ours.admit(prompt)), prompts[34:]))
    live: list[NDArray[np.int64]] = []
    hit = ours.kv.admit_flat(prompts[-1], np.array([0, PROMPT]))
    ours.kv.free(hit.handles)
    keep(HOT, "ours", timed(lambda prompt: live.append(ours.admit(prompt)), [prompts[-1]] * 100))
    if has_vllm:
        theirs = Vllm()
        lists = [prompt.tolist() for prompt in prompts]
        for prompt in lists[:34]:
            theirs.manager.free(theirs.admit(prompt))
        keep(COLD, "vllm", timed(lambda prompt: theirs.manager.free(theirs.admit(prompt)), lists[34:]))
        keep(HOT, "vllm", timed(theirs.admit, [lists[-1]] * 30))
        # Both leave the last block; ours copies its beginning, so that one token is left.
        assert theirs.num_cached == PROMPT - BLOCK
        assert hit.num_cached.tolist() == [PROMPT - 1]


def steps(has_vllm: bool) -> None:
    """Decoding: one token a sequence, over many blocks."""
    prompts, tokens = prompts_of(256, 512, seed=1), prompts_of(128, 256, seed=2)
    ours = Ours(65536)
    handles = np.concatenate([ours.admit(prompt) for prompt in prompts])
    arrays = ours.tables, ours.slots, ours.lengths
    keep(STEP, "ours", timed(lambda ids: ours.kv.step(handles, None, ids, *arrays), tokens))
    assert ours.lengths.tolist() == [512 + len(tokens)] * 256
    if not has_vllm:
        return
    theirs = Vllm(65536)
    requests = [theirs.admit(prompt.tolist()) for prompt in prompts]
    for request in requests:
        request.num_computed_tokens = request.num_tokens
    times = []
    for ids in tokens:
        for request, token in zip(requests, ids.tolist(), strict=True):
            request.append_output_token_ids(token)
        times += timed(lambda _: [theirs.manager.allocate_slots(request, 1) for request in requests], [None])
        for request in requests:
            request.num_computed_tokens += 1
    keep(STEP, "vllm", times)


def trees(path: str | None) -> None:
    """Storing prompts, and evicting below many leaves."""
    prompts = prompts_of(60, PROMPT, seed=3)
    ours = Ours(65536)
    keep(INSERT, "ours", timed(lambda prompt: ours.kv.free(ours.admit(prompt)), prompts))
    shared, ends = prompts_of(1, 1024, seed=4)[0], prompts_of(20_000, 64, seed=5)
    leaves = Ours(64 + 4 * len(ends))
    for end in ends:
        leaves.kv.free(leaves.admit(np.concatenate([shared, end])))
    assert leaves.kv.num_available == [64 + 4 * len(ends)]
    assert leaves.kv.num_cached == leaves.kv.num_available
    # Our eviction is part of taking blocks, so theirs is compared with all of that.
    fresh = prompts_of(50, 64, seed=6)
    keep(EVICT, "ours", timed(leaves.admit, fresh))
    if path is None:
        return
    import torch

    spec = importlib.util.spec_from_file_location("mem_cache", path)
    assert spec is not None
    assert spec.loader is not None
    sglang = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sglang)

    def tree() -> Any:
        settings = sglang.TreeCoreInitParamsBinding(eviction_policy="lru", page_size=BLOCK, device="cpu")
        return sglang.RustUnifiedTreeCoreBinding(settings, [0])

    def insert(core: Any, key: array[int], value: Any) -> None:
        core.match_prefix(sglang.MatchParamsBinding(key=key))
        state = core.begin_insert(sglang.InsertParamsBinding(key=key, value=value))
        while state.result is None:
            state = core.resume_insert()
        if core.has_ongoing_insert():
            core.end_insert()

    value, theirs = torch.arange(PROMPT), tree()
    keys = [array("q", prompt.tolist()) for prompt in prompts]
    keep(INSERT, "sglang", timed(lambda key: insert(theirs, key, value), keys))
    theirs = tree()
    for end in ends:
        key = array("q", np.concatenate([shared, end]).tolist())
        insert(theirs, key, torch.arange(len(key)))

    def evict(_: None) -> None:
        theirs.evict_device_start(0, 64)
        theirs.evict_device_next_node(0, {0: 0})
        theirs.evict_device_end(0)

    keep(EVICT, "sglang", timed(evict, [None] * 50))


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
