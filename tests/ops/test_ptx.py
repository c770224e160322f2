"""The primitives of `cuda/ptx.cuh`, each alone: simulated against plain Python, and compiled by NVRTC."""

from __future__ import annotations

import random

import pytest
import torch
from simulator import FOLDER, simulate

from tempa.ops import nvrtc

KERNELS = FOLDER / "kernels"
LANES = torch.arange(32)
ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float8_e4m3fn: "e4m3"}
# Rows and columns, by lane, of the first of the two neighbours that a lane holds of an 8x8 matrix.
ROW, COLUMN = LANES // 4, LANES % 4 * 2


def _primitive(entry: str, *arguments, grid=1, block=32, element=torch.bfloat16, num_bytes=16) -> None:
    defines = {"ELEMENT": ELEMENTS[element], "BYTES": num_bytes}
    size = {"grid": grid, "block": block, "shared_bytes": 1024}
    simulate(KERNELS / "primitives.cu", entry, *arguments, **size, defines=defines)


def _conversion(entry: str, *arguments, element) -> None:
    defines = {"ELEMENT": ELEMENTS[element]}
    simulate(KERNELS / "conversions.cu", entry, *arguments, grid=4, block=64, defines=defines)


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_primitives_compile_without_headers(arch, dtype) -> None:
    variants = [("conversions.cu", {})]
    if dtype != torch.float8_e4m3fn:
        variants += [("primitives.cu", {"BYTES": num_bytes}) for num_bytes in (4, 8, 16)]
        variants += [("gemm_ampere.cu", {"BUG": "NONE"})]
    for source, defines in variants:
        defines["ELEMENT"] = ELEMENTS[dtype]
        binary = nvrtc.compile_source(str(KERNELS / source), arch=arch, defines=defines)
        assert all(needs.spilled_bytes == 0 for needs in binary.resources().values())


def test_threads_and_blocks_are_numbered_in_three_dimensions() -> None:
    numbers = torch.full((2 * 3 * 2, 4 * 3 * 5), -1, dtype=torch.int32)
    _primitive("thread_numbers", numbers, grid=(2, 3, 2), block=(4, 3, 5))
    assert torch.equal(numbers, (torch.arange(12)[:, None] * 1000 + torch.arange(60)).int())


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("argument", [0, 1, 5, 16])
def test_shuffles_stay_in_their_part_of_the_warp(argument, width) -> None:
    values = torch.randint(-1000, 1000, (32,), generator=torch.Generator().manual_seed(argument)).double()
    results = torch.full((4, 32), torch.nan, dtype=torch.float64)
    _primitive("shuffles", results, values, argument, width)
    first = LANES // width * width
    flipped = LANES ^ argument
    sources = [
        first + argument % width,
        torch.where(flipped < first + width, flipped, LANES),
        torch.where(LANES + argument < first + width, LANES + argument, LANES),
        torch.where(LANES - argument >= first, LANES - argument, LANES),
    ]
    assert torch.equal(results, torch.stack([values[source] for source in sources]))


@pytest.mark.parametrize("count", [1, 13, 31])
def test_votes_count_the_lanes_of_their_mask_and_not_those_that_returned(count) -> None:
    predicates = (LANES % 3 > 0).int()
    results = torch.full((3, 32), -1, dtype=torch.int32)
    _primitive("votes", results, predicates, count)
    ballot = sum(1 << lane for lane in range(32) if lane % 3)
    low, high = predicates[:count].any(), predicates[count:].all()
    assert (results[0].to(torch.int64) % 2**32 == ballot).all()
    assert torch.equal(results[1], torch.where(count > LANES, low, high).int())
    assert (results[2, 1:].to(torch.int64) % 2**32 == 2**32 - 2).all()


@pytest.mark.parametrize("count", [1, 13, 31])
def test_reductions_keep_to_their_mask(count) -> None:
    values = torch.randint(-2, 3, (32,), dtype=torch.int32, generator=torch.Generator().manual_seed(count))
    results = torch.zeros(5, 32, dtype=torch.int32)
    _primitive("reductions", results, values, count)
    for lanes in (LANES[:count], LANES[count:]):
        of_lanes = values[lanes]
        assert (results[0, lanes] == of_lanes.sum()).all()
        assert (results[1, lanes] == of_lanes.min()).all()
        assert (results[2, lanes] == of_lanes.max()).all()
        assert (results[4, lanes] == of_lanes.view(torch.uint32).to(torch.int64).max().to(torch.int32)).all()
        for lane in lanes.tolist():
            same = sum(1 << other for other in lanes.tolist() if values[other] == values[lane])
            assert results[3, lane].item() % 2**32 == same


def test_the_high_words_of_products_are_exact() -> None:
    generator = random.Random(0)
    words, long_words = ([generator.getrandbits(bits) for _ in range(32)] for bits in (32, 64))
    high = torch.zeros(32, dtype=torch.uint32), torch.zeros(32, dtype=torch.uint64)
    values = torch.tensor(words, dtype=torch.uint32), torch.tensor(long_words, dtype=torch.uint64)
    _primitive("high_words", *high, *values)
    assert high[0].tolist() == [words[i] * words[i ^ 1] >> 32 for i in range(32)]
    assert high[1].tolist() == [long_words[i] * long_words[i ^ 1] >> 64 for i in range(32)]


@pytest.mark.parametrize("num_true", [0, 17, 96])
def test_barriers_of_the_block_count_votes(num_true) -> None:
    results = torch.full((3, 96), -1, dtype=torch.int32)
    _primitive("block_votes", results, (torch.arange(96) < num_true).int(), block=96)
    expected = torch.tensor([num_true, num_true > 0, num_true == 96], dtype=torch.int32)
    assert torch.equal(results, expected[:, None].expand(3, 96))


@pytest.mark.parametrize("num_bytes", [4, 8, 16])
def test_copies_without_use_write_zeros_and_read_nothing(num_bytes) -> None:
    words = num_bytes // 4
    # There are only as many bytes as are used.
    source = torch.randint(-(2**31), 2**31 - 1, (20 * words,), dtype=torch.int32)
    to = torch.full((32 * words,), -1, dtype=torch.int32)
    _primitive("copies", to, source, 20, num_bytes=num_bytes)
    assert torch.equal(to, torch.cat([source, torch.zeros(12 * words, dtype=torch.int32)]))


def test_vectors_are_moved_whole() -> None:
    source = torch.randn(32, 4)
    to = torch.full_like(source, torch.nan)
    _primitive("vectors", to, source)
    assert torch.equal(to, source)


def test_matrices_are_dealt_to_lanes_as_instructions_take_them() -> None:
    source = torch.randint(-(2**15), 2**15, (4, 8, 8), dtype=torch.int16)
    results = torch.zeros(14, 32, 2, dtype=torch.int16)
    _primitive("matrices", results, source)
    plain = torch.stack([source[:, ROW, COLUMN], source[:, ROW, COLUMN + 1]], -1)
    transposed = torch.stack([source[:, COLUMN, ROW], source[:, COLUMN + 1, ROW]], -1)
    expected = [matrices[:count] for matrices in (plain, transposed) for count in (1, 2, 4)]
    assert torch.equal(results, torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_product_takes_and_gives_the_parts_of_each_lane(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    d = torch.randn(16, 8, generator=generator)
    halves = torch.arange(2)
    part = torch.arange(4)[:, None]
    of_a = a[ROW[:, None, None] + part % 2 * 8, COLUMN[:, None, None] + part // 2 * 8 + halves]
    of_b = b[COLUMN[:, None, None] + part[:2] * 8 + halves, ROW[:, None, None]]
    rows, columns = ROW[:, None] + part.T // 2 * 8, COLUMN[:, None] + part.T % 2
    sums = d[rows, columns].clone()
    _primitive("products", sums, of_a.contiguous(), of_b.contiguous(), element=dtype)
    expected = d.double() + a.double() @ b.double()
    torch.testing.assert_close(sums.double(), expected[rows, columns], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_every_element_is_widened_as_torch_does(dtype) -> None:
    bits = torch.arange(2 ** (8 * dtype.itemsize))
    narrow = bits.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16).view(dtype)
    wide = torch.empty(len(bits))
    _conversion("widen", wide, narrow, len(bits), element=dtype)
    torch.testing.assert_close(wide, narrow.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_floats_are_rounded_as_torch_does(dtype) -> None:
    bits = torch.arange(2 ** (8 * dtype.itemsize))
    exact = bits.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16).view(dtype).float()
    exact = exact[exact.isfinite()].sort().values
    halfway = (exact[1:] + exact[:-1]) / 2
    largest = torch.tensor([1e9, -1e9, float("inf"), float("-inf"), float("nan")])
    wide = torch.cat([exact, halfway, halfway.nextafter(exact[1:]), halfway.nextafter(exact[:-1]), largest])
    narrow = torch.empty(len(wide), dtype=dtype)
    _conversion("narrow", narrow, wide, len(wide), element=dtype)
    # torch turns what exceeds the largest e4m3 into NaN, the instruction into the largest.
    expected = (wide.clamp(-448, 448) if dtype == torch.float8_e4m3fn else wide).to(dtype)
    torch.testing.assert_close(narrow.float(), expected.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pairs_lie_as_in_memory(dtype) -> None:
    wide = torch.randn(32, 2)
    packed, unpacked = torch.empty(32, 2, dtype=dtype), torch.empty(32, 2)
    _primitive("pairs", packed, unpacked, wide, element=dtype)
    assert torch.equal(packed, wide.to(dtype))
    assert torch.equal(unpacked, wide.to(dtype).float())


def test_pairs_of_e4m3_become_the_same_halves() -> None:
    narrow = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    halves = torch.empty(256, dtype=torch.float16)
    _conversion("widen_e4m3_pairs", halves, narrow, element=torch.float8_e4m3fn)
    torch.testing.assert_close(halves, narrow.half(), rtol=0, atol=0, equal_nan=True)


def test_functions_of_the_special_unit() -> None:
    x = torch.randn(64) * 3
    results = torch.full((3, 64), torch.nan)
    _primitive("functions", results, x, block=64)
    # The CPU's own functions stand for them; on a device the last one is the least exact, to 2^-11.
    torch.testing.assert_close(
        results, torch.stack([x.exp2(), x.abs().log2(), x.tanh()]), rtol=2**-10, atol=1e-6
    )


def test_warps_hand_over_at_named_barriers() -> None:
    results = torch.full((5, 32), -1, dtype=torch.int32)
    _primitive("hand_over", results, 5, block=64)
    assert torch.equal(results, (torch.arange(5)[:, None] * 100 + LANES).int())


def test_the_last_block_sees_what_the_others_wrote_and_leaves_the_ticket_as_it_was() -> None:
    sums, total, ticket = torch.full((7,), torch.nan), torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    for calls in (1, 2):
        _primitive("last_block", total, sums, ticket, grid=7, block=64)
        assert total.item() == calls * 28
        assert ticket.item() == 0


def test_atomic_updates_add_up() -> None:
    values = torch.randint(1, 1000, (64,), dtype=torch.int32)
    results = torch.tensor([0, 0, 1000, 0, 0], dtype=torch.int32)
    _primitive("atomics", results, values, block=64)
    bits = 0
    for value in values.tolist():
        bits |= value
    total = values.sum()
    assert results.tolist() == [total, values.max(), values.min(), bits, total]
