"""The kernel of `cuda/paged.cu`, compiled for GPUs and run on the CPU by `simulator`; the plan of its blocks.

`tests/gpu/test_paged.py` runs it where it belongs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulator import SimulationError, simulate

from tempa.ops import nvrtc, paged_cuda, reference
from tempa.ops.paged_cuda import SOURCE, Shape
from tempa.ops.paged_plan import TILE, Plan, plan

GARBAGE = -(2**30)  # an entry of a table that nobody may follow


@dataclass(frozen=True)
class Case:
    """A batch: lengths and new tokens of its sequences, and what attention it is."""

    lengths: tuple[int, ...]
    new: tuple[int, ...]
    heads: tuple[int, int] = (4, 2)
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.bfloat16
    kept: torch.dtype | None = None
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    alibi: bool = False
    resident: int = 8

    @property
    def rules(self) -> dict[str, object]:
        slopes = 2.0 ** -torch.arange(1, self.heads[0] + 1) if self.alibi else None
        return {"window": self.window, "sinks": self.sinks, "softcap": self.softcap, "slopes": slopes}


def _batch(case: Case, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors. Blocks that no query reads, and what is behind the end of a sequence, hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    (heads, kv_heads), size, width = case.heads, case.block_size, case.head_dim
    widest = max(-(-length // size) for length in case.lengths) + 2
    tables = torch.full((len(case.lengths), widest), GARBAGE, dtype=torch.int32)
    count = sum(-(-length // size) for length in case.lengths)
    pools = torch.full((2, count + 1, kv_heads, size, width), torch.nan)
    order = (torch.randperm(count, generator=generator) + 1).int()
    for i, (length, new) in enumerate(zip(case.lengths, case.new, strict=True)):
        blocks, order = order.split([-(-length // size), len(order) - -(-length // size)])
        low = 0 if case.window is None else max(0, length - new - case.window + 1)
        for number, block in enumerate(blocks.tolist()):
            place = torch.arange(number * size, (number + 1) * size)
            seen = (place < length) & ((place >= low) | (place < case.sinks))
            if new and seen.any():
                tables[i, number] = block
            drawn = torch.randn(2, kv_heads, size, width, generator=generator)
            pools[:, block] = torch.where(seen[:, None], drawn, torch.nan)
    starts = torch.tensor([0, *itertools.accumulate(case.new)])
    q = 2 * torch.randn(int(starts[-1]), heads, width, generator=generator)
    keys, values = (_kept(pool, case.kept or case.dtype) for pool in pools)
    return {
        "q": q.to(case.dtype),
        "keys": keys,
        "values": values,
        "tables": tables,
        "lengths": torch.tensor(case.lengths),
        "starts": starts,
    }


def _kept(pool: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Blocks as the cache keeps them, bytes with a scale for each row behind them."""
    if dtype not in paged_cuda.SCALED:
        return pool.to(dtype)
    largest = 127 if dtype == torch.int8 else 448
    scales = pool.abs().amax(-1, keepdim=True) / largest
    rows = pool.nan_to_num() / scales.nan_to_num(1)
    rows = rows.round().to(dtype) if dtype == torch.int8 else rows.to(dtype)
    parts = [part.flatten(1).contiguous().view(torch.int8) for part in (rows, scales)]
    return torch.cat(parts, 1).view(dtype)


def _plan(case: Case) -> Plan:
    return plan(
        np.array(case.lengths),
        np.array([0, *itertools.accumulate(case.new)]),
        group=case.heads[0] // case.heads[1],
        num_kv_heads=case.heads[1],
        resident=case.resident,
        max_row_warps=_shape(case).max_row_warps,
        window=case.window,
        sinks=case.sinks,
    )


def _shape(case: Case) -> Shape:
    itemsize = (case.kept or case.dtype).itemsize
    group = case.heads[0] // case.heads[1]
    return Shape.of(case.head_dim, case.block_size, group, itemsize, shared_bytes=99 << 10)


def _simulated(
    case: Case, batch: dict[str, torch.Tensor], made: Plan, *, seed: int = 0, source: str | Path = SOURCE
) -> torch.Tensor:
    """What the kernel writes over NaN."""
    shape, out = _shape(case), torch.full_like(batch["q"], torch.nan)
    slopes, first = case.rules["slopes"], 0
    assert slopes is None or isinstance(slopes, torch.Tensor)
    q, keys, values, tables = (batch[name] for name in ("q", "keys", "values", "tables"))
    for row_warps, num_items, num_parts in made.launches:
        floats = num_parts * case.heads[1] * 16 * row_warps * (case.head_dim + paged_cuda.VECTOR)
        tickets = torch.zeros(num_parts * case.heads[1], dtype=torch.int32)
        simulate(
            source,
            "paged_attention",
            *(out, *batch.values(), torch.from_numpy(made.items[first : first + num_items])),
            torch.full((floats,), torch.nan),
            tickets,
            slopes,
            *paged_cuda.arguments(
                q, keys, values, tables, case.heads[1], case.window, case.sinks, case.softcap
            ),
            grid=num_items * case.heads[1],
            block=paged_cuda.THREADS,
            shared_bytes=shape.shared_bytes,
            defines=shape.defines(
                case.dtype,
                keys.dtype,
                row_warps=row_warps,
                softcap=case.softcap is not None,
                alibi=case.alibi,
            ),
            seed=seed,
        )
        assert not tickets.any()  # as they were found
        first += num_items
    return out


def _errors(case: Case, out: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """How far off `out` is, and how far off torch is in the dtype of the queries, against float64."""
    q, keys, values, *rest = batch.values()
    size = (case.heads[1], case.block_size, case.head_dim)
    keys, values = (paged_cuda.unscaled(pool, *size) for pool in (keys, values))
    exact = reference.paged_attention(q.double(), keys.double(), values.double(), *rest, **case.rules)
    plain = reference.paged_attention(q, keys, values, *rest, **case.rules)
    scale = exact.norm()
    return float((out - exact).norm() / scale), float((plain - exact).norm() / scale)


# Lengths that end inside a block, a tile of 64 and a warp's 16; sequences with nothing new; rows that end
# inside a tile of rows; every kind of rule, cache and head.
CASES = {
    "decode": Case((1, 200, 64, 5), (1, 1, 1, 0)),
    "one long sequence": Case((330,), (1,), heads=(8, 1), head_dim=128, resident=2),
    "window and sinks": Case((290, 90, 40), (1, 1, 1), window=70, sinks=3, resident=4),
    "prefill": Case((100, 37), (13, 37), heads=(6, 2), head_dim=80, dtype=torch.float16),
    "prefill in a window": Case((200,), (30,), window=9, sinks=70),
    "odd blocks": Case((150, 40), (40, 33), head_dim=40, block_size=5, alibi=True),
    "wide heads": Case((300, 20), (1, 1), heads=(2, 2), head_dim=256, softcap=5.0),
    "int8": Case((130, 9), (2, 2), heads=(8, 2), kept=torch.int8, dtype=torch.float16),
    "int8, few rows": Case((130, 66), (8, 5), (4, 1), 48, kept=torch.int8, softcap=30.0, window=100),
    "e4m3": Case((90, 30), (1, 3), kept=torch.float8_e4m3fn, block_size=4),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_simulated_kernel_is_as_near_to_the_reference_as_torch(name: str, seed: int) -> None:
    case = CASES[name]
    batch = _batch(case, seed)
    ours, torchs = _errors(case, _simulated(case, batch, _plan(case), seed=seed), batch)
    assert ours <= 2 * torchs


def test_splits_without_keys_and_places_without_work_change_nothing() -> None:
    """As when a captured graph runs for shorter sequences than it was planned for."""
    case = CASES["decode"]
    batch = _batch(case)
    made = _plan(replace(case, lengths=(900, 900, 900, 5), resident=64))
    ((row_warps, num_items, num_parts),) = made.launches
    assert made.items[:, 3].min() > 4  # more splits than tiles
    idle = np.full((2, 5), -1, np.int32)
    padded = Plan(np.concatenate([idle, made.items]), ((row_warps, num_items + 2, num_parts),))
    ours, torchs = _errors(case, _simulated(case, batch, padded), batch)
    assert ours <= 2 * torchs


# What is replaced, and by what.
MUTANTS = {
    "no wait": ("copy_async_wait<SLOTS - 2>();", "copy_async_wait<SLOTS - 1>();"),
    "no barrier": ("meet();  // the keys are there, and the slot before theirs has been read", ""),
    "a later key": ("at > row_places[half] ||", "at > row_places[half] + 1 ||"),
    "an earlier key": ("at <= row_places[half] - window &&", "at < row_places[half] - window &&"),
    "a key past the end": ("at < end && (at >= low", "(at >= low"),
}


class WrongError(Exception):
    """The result is."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_kernel_is_noticed(mutant: str, tmp_path: Path) -> None:
    # Enough tiles to go round the ring, and rows for all warps, so that they read what others load.
    case = Case((330,), (20,), heads=(4, 1), head_dim=16, window=300, resident=2)
    text, (old, new) = (nvrtc.SOURCES / SOURCE).read_text(), MUTANTS[mutant]
    assert old in text
    source = tmp_path / SOURCE
    source.write_text(text.replace(old, new))

    def run() -> None:
        for seed in range(4):
            batch = _batch(case, seed)
            ours, torchs = _errors(
                case, _simulated(case, batch, _plan(case), seed=seed, source=source), batch
            )
            if not ours <= 2 * torchs:
                raise WrongError

    with pytest.raises((SimulationError, WrongError)):
        run()


# Registers of a thread: what lets three blocks, two, or one of 128 threads reside.
BUDGETS = [
    ({"head_dim": 64, "itemsize": 2}, 1, 128),
    ({"head_dim": 64, "itemsize": 2}, 4, 168),
    ({"head_dim": 128, "itemsize": 2}, 1, 168),
    ({"head_dim": 128, "itemsize": 2}, 4, 255),
    ({"head_dim": 128, "itemsize": 1}, 1, 168),
    ({"head_dim": 128, "itemsize": 1}, 4, 255),
    ({"head_dim": 256, "itemsize": 2}, 1, 255),
]


@pytest.mark.parametrize(("size", "row_warps", "registers"), BUDGETS, ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_within_its_registers(size, row_warps, registers) -> None:
    _assert_compiles("sm_90a", 227, size, row_warps, registers)


@pytest.mark.parametrize(("arch", "shared_kib"), [("sm_80", 163), ("sm_100a", 227), ("sm_120", 99)])
@pytest.mark.parametrize(("size", "row_warps", "registers"), [BUDGETS[2], BUDGETS[6]], ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_for_other_devices(arch, shared_kib, size, row_warps, registers) -> None:
    _assert_compiles(arch, shared_kib, size, row_warps, registers)


@pytest.mark.parametrize(
    ("element", "kept"), [(torch.float16, torch.float8_e4m3fn), (torch.bfloat16, torch.int8)], ids=str
)
@pytest.mark.usefixtures("kernel_cache")
def test_caches_of_bytes_compile_with_every_rule(element, kept) -> None:
    _assert_compiles("sm_80", 99, {"head_dim": 96, "itemsize": 1}, 2, 255, element, kept, rules=True)


def _assert_compiles(
    arch: str,
    shared_kib: int,
    size: dict[str, int],
    row_warps: int,
    registers: int,
    element: torch.dtype = torch.bfloat16,
    kept: torch.dtype | None = None,
    *,
    rules: bool = False,
) -> None:
    shape = Shape.of(**size, block_size=16, group=4, shared_bytes=shared_kib << 10)
    assert shape.shared_bytes <= shared_kib << 10
    assert row_warps <= shape.max_row_warps
    kept = kept or (element if size["itemsize"] == 2 else torch.int8)
    defines = shape.defines(element, kept, row_warps=row_warps, softcap=rules, alibi=rules)
    needs = nvrtc.compile_source(SOURCE, arch=arch, defines=defines).resources()["paged_attention"]
    assert needs.spilled_bytes == 0
    assert needs.registers <= registers


def _waves(lengths: list[int], num_kv_heads: int, resident: int) -> tuple[float, int]:
    """The share of the device's time that decoding fills, in tiles of keys, and the splits of the longest."""
    made = plan(
        np.array(lengths),
        np.arange(len(lengths) + 1),
        group=4,
        num_kv_heads=num_kv_heads,
        resident=resident,
    )
    tiles = -(-np.array(lengths) // TILE)
    largest = max(tiles[item[0]] / item[3] for item in made.items)
    waves = -(-len(made.items) * num_kv_heads // resident)
    return float(tiles.sum()) * num_kv_heads / (waves * resident * largest), int(made.items[:, 3].max())


@pytest.mark.parametrize("lengths", [[65536], [20000] * 8, [131072, *[1000] * 60], [8192] * 33, [3000] * 256])
def test_splits_fill_the_device(lengths: list[int]) -> None:
    efficiency, _ = _waves(lengths, 8, 264)
    assert efficiency > 0.85


def test_enough_sequences_are_not_split() -> None:
    assert _waves([2048] * 264, 8, 264)[1] == 1


def test_every_split_of_all_rows_is_planned_once() -> None:
    lengths, starts = np.array([500, 70, 9, 300, 12]), np.array([0, 40, 41, 41, 47, 53])
    made = plan(lengths, starts, group=4, num_kv_heads=2, resident=20, window=100, sinks=4)
    assert [launch[0] for launch in made.launches] == [1, 2, 4]
    first, rows = 0, []
    for row_warps, num_items, num_parts in made.launches:
        items = made.items[first : first + num_items]
        first += num_items
        parts = [item[4] + item[2] for item in items if item[3] > 1]
        assert sorted(parts) == list(range(num_parts))
        for sequence, tile, split, num_splits, _ in items.tolist():
            assert 0 <= split < num_splits
            per_tile = 16 * row_warps
            if split == 0:
                count = int(starts[sequence + 1] - starts[sequence]) * 4
                rows += [(sequence, row) for row in range(tile * per_tile, min((tile + 1) * per_tile, count))]
    assert first == len(made.items)
    counts = np.diff(starts) * 4
    assert sorted(rows) == [(i, row) for i in range(5) for row in range(counts[i])]


def test_a_batch_without_new_tokens_has_no_launch() -> None:
    made = plan(np.array([5]), np.array([0, 0]), group=1, num_kv_heads=1, resident=1)
    assert made.items.shape == (0, 5)
    assert made.launches == ()


def test_a_head_that_no_variant_fits_is_rejected() -> None:
    with pytest.raises(ValueError, match="head_dim must be a multiple of 16 up to 256, got 72"):
        Shape.of(72, 16, 4, 1, shared_bytes=99 << 10)


@pytest.mark.parametrize("kept", [None, torch.int8], ids=str)
def test_the_operator_passes_opcheck_and_equals_the_reference(kept: torch.dtype | None) -> None:
    case = Case((20, 7), (2, 1), head_dim=16, kept=kept, alibi=True, window=9)
    batch, made = _batch(case), _plan(case)
    launches = [number for launch in made.launches for number in launch]
    slopes = case.rules["slopes"]
    arguments = (
        *(*batch.values(), torch.from_numpy(made.items), launches, case.block_size, case.heads[1]),
        *(case.window, case.sinks, case.softcap, slopes),
    )
    torch.library.opcheck(torch.ops.tempa.paged_attention.default, arguments)
    ours, torchs = _errors(case, torch.ops.tempa.paged_attention(*arguments), batch)
    assert ours <= 2 * torchs


def test_tensors_that_do_not_fit_are_rejected_before_the_launch() -> None:
    case = CASES["decode"]
    batch, made = _batch(case), _plan(case)
    out = torch.empty_like(batch["q"])

    def refused(message: str, **changed: torch.Tensor) -> None:
        tensors = {"out": out, **batch, "items": torch.from_numpy(made.items), **changed}
        with pytest.raises(ValueError, match=message):
            paged_cuda.attend_into(*tensors.values(), made.launches, block_size=16, num_kv_heads=2)

    q, keys = batch["q"], batch["keys"]
    refused(r"q must be \(T, H, D\) bfloat16 or float16, got \(3, 4, 64\) torch.float32", q=q.float())
    refused(r"keys must be \(blocks, 2, 16, 64\)", keys=keys[:, :, :8])
    refused(
        r"values must be .* torch.bfloat16 for q of .*, got .* torch.float16", values=batch["values"].half()
    )
    refused(r"blocks of keys must be contiguous", keys=keys.transpose(2, 3).contiguous().transpose(2, 3))
    refused(r"out must be \(3, 4, 64\) torch.bfloat16, contiguous", out=out[:1])
    refused(r"tables must be .* torch.int32, contiguous, got .* torch.int64", tables=batch["tables"].long())
    refused(r"starts must be \(5,\) torch.int64", starts=batch["starts"][1:])
    shifted = torch.empty(q.numel() + 1, dtype=q.dtype)[1:].view(q.shape)
    refused(r"must start at 16 bytes", q=shifted)
    refused(r"q is on cpu, got .* on meta", lengths=batch["lengths"].to("meta"))
