"""What `cuda/ptx.cuh` has from Hopper on, simulated against plain Python, and compiled by NVRTC."""

from __future__ import annotations

import re

import pytest
import torch
from simulator import FOLDER, SimulationError, TensorMap, simulate

from tempa.ops import nvrtc

KERNELS = FOLDER / "kernels"
ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
BOX_BYTES = 16384 + 1024
# Relative, for float32 sums of 640 products, which tensor cores truncate; a mistake makes 1e-2 at least.
TOLERANCE = 1e-5


def _swizzled(rows: torch.Tensor, swizzle_bytes: int) -> torch.Tensor:
    """How a box of bytes lies: 16-byte pieces change places by exclusive or with their number by 8."""
    pieces = rows.reshape(-1, 16)
    place = torch.arange(len(pieces))
    if swizzle_bytes:
        place = place ^ (place // 8 % (swizzle_bytes // 16))
    return torch.empty_like(pieces).index_copy(0, place, pieces).flatten()


@pytest.mark.parametrize(
    ("shape", "box", "corner", "swizzle_bytes", "dtype"),
    [
        ((40, 64), (16, 64), (8, 0), 128, torch.bfloat16),
        ((40, 72), (16, 32), (32, 48), 64, torch.float16),
        ((40, 72), (24, 16), (-8, -8), 32, torch.bfloat16),
        ((10, 20), (5, 4), (7, 18), 0, torch.float32),
        ((3, 40, 64), (1, 64, 32), (2, -3, 32), 64, torch.bfloat16),
        ((3, 5, 2, 64), (2, 3, 1, 64), (2, 4, 1, 0), 128, torch.bfloat16),
        ((4, 3, 17, 32), (2, 2, 4, 32), (-1, 2, 15, 0), 0, torch.uint8),
    ],
)
@pytest.mark.parametrize("timing", ["early", "late"])
def test_a_box_is_cut_out_swizzled_and_put_back(shape, box, corner, swizzle_bytes, dtype, timing) -> None:
    tensor = torch.randint(0, 100, shape).to(dtype)
    stored = torch.full_like(tensor, 101)
    num_bytes = torch.Size(box).numel() * dtype.itemsize
    seen = torch.zeros(num_bytes, dtype=torch.uint8)
    simulate(
        KERNELS / "hopper.cu",
        "move_box",
        seen,
        TensorMap(tensor, box, swizzle_bytes),
        TensorMap(stored, box, swizzle_bytes),
        num_bytes,
        *(*reversed(corner), 0, 0)[:4],
        grid=1,
        block=64,
        shared_bytes=BOX_BYTES,
        defines={"RANK": len(shape)},
        timing=timing,
    )
    cut = torch.zeros(box, dtype=dtype)
    expected = torch.full_like(tensor, 101)
    inside = [range(max(at, 0), min(at + side, n)) for at, side, n in zip(corner, box, shape, strict=True)]
    of_tensor = tuple(slice(part.start, part.stop) for part in inside)
    of_box = tuple(slice(p.start - at, p.stop - at) for p, at in zip(inside, corner, strict=True))
    cut[of_box] = tensor[of_tensor]
    expected[of_tensor] = tensor[of_tensor]
    assert torch.equal(seen, _swizzled(cut.view(torch.uint8), swizzle_bytes))
    assert torch.equal(stored, expected)


@pytest.mark.parametrize("timing", ["early", "late"])
def test_neighbouring_bytes_are_loaded(timing) -> None:
    source = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    to = torch.zeros_like(source)
    size = {"grid": 1, "block": 64, "shared_bytes": BOX_BYTES}
    arguments = (to, source, 4096)
    simulate(KERNELS / "hopper.cu", "move_bytes", *arguments, **size, defines={"RANK": 2}, timing=timing)
    assert torch.equal(to, source)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_passes_a_barrier_before_all_of_a_phase_have_come(seed) -> None:
    results = torch.zeros(6, 4, dtype=torch.int32)
    arguments = (results, 6)
    simulate(KERNELS / "hopper.cu", "rounds", *arguments, grid=1, block=128, defines={"RANK": 2}, seed=seed)
    # Others may already have counted for the next round.
    first = torch.arange(1, 7)[:, None] * 4
    assert ((results >= first) & (results < first + 4)).all()


def _passed_on(blocks: int, bug: str = "NONE", seed: int = 0, grid: int = 6) -> torch.Tensor:
    """What came of 64 numbers of each block."""
    numbers = torch.arange(64.0 * grid)
    out = torch.full_like(numbers, torch.nan)
    simulate(
        KERNELS / "cluster.cu",
        "pass_on",
        *(out, numbers),
        grid=grid,
        block=64,
        shared_bytes=256,
        defines={"BLOCKS": blocks, "BUG": bug},
        seed=seed,
    )
    return out


@pytest.mark.parametrize("blocks", [1, 3, 6])
def test_blocks_of_a_cluster_reach_each_others_shared_memory(blocks) -> None:
    numbers = torch.arange(64.0 * 6).view(6 // blocks, blocks, 64)
    for seed in range(3):
        assert torch.equal(_passed_on(blocks, seed=seed), numbers.roll(1, 1).flip(2).flatten())


def test_a_missing_wait_for_the_cluster_gives_wrong_numbers() -> None:
    right = _passed_on(3)
    assert any(not torch.equal(_passed_on(3, "NO_WAIT", seed), right) for seed in range(3))


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("NO_START", r"shared_of block \d, which may not have begun or has returned at cluster.cu:\d+"),
        ("NO_END", r"shared_of block 1, which may not have begun or has returned at cluster.cu:\d+"),
        ("NO_SUCH_BLOCK", "shared_of block 3 of a cluster of 3"),
    ],
)
def test_a_mistake_with_clusters_is_reported(bug, report) -> None:
    with pytest.raises(SimulationError, match=report):
        _passed_on(3, bug)


def test_a_grid_that_is_no_clusters_is_rejected() -> None:
    with pytest.raises(SimulationError, match="5 blocks cannot be clusters of 3"):
        _passed_on(3, grid=5)


PRODUCTS = [
    (64, "k", "k", 128),
    (96, "k", "mn", 128),
    (128, "mn", "k", 64),
    (176, "k", "mn", 64),
    (192, "mn", "mn", 128),
    (256, "k", "k", 32),
    (64, "mn", "mn", 32),
]


def _product_defines(
    tile_n: int, a_major: str, b_major: str, swizzle: int, dtype: torch.dtype
) -> dict[str, str | int]:
    names = ("TILE_N", "A_MAJOR", "B_MAJOR", "SWIZZLE", "ELEMENT")
    return dict(zip(names, (tile_n, a_major, b_major, swizzle, ELEMENTS[dtype]), strict=True))


@pytest.mark.parametrize(("tile_n", "a_major", "b_major", "swizzle"), PRODUCTS)
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_a_warpgroup_multiplies_tiles_of_any_layout(tile_n, a_major, b_major, swizzle, dtype) -> None:
    depth = swizzle // 2
    generator = torch.Generator().manual_seed(tile_n)
    a = torch.randn(64, depth, generator=generator).to(dtype)
    b = torch.randn(depth, tile_n, generator=generator).to(dtype)
    c = torch.full((64, tile_n), torch.nan)
    num_bytes = 0
    maps = []
    for operand, major in ((a, a_major), (b.T, b_major)):
        stored = (operand if major == "k" else operand.T).contiguous()
        maps.append(TensorMap(stored, (len(stored), depth), swizzle))
        panels = 1 if major == "k" else -(-stored.shape[1] // depth)
        num_bytes += panels * len(stored) * swizzle
    simulate(
        KERNELS / "wgmma.cu",
        "product",
        *(c, *maps, num_bytes),
        grid=1,
        block=128,
        shared_bytes=64 << 10,
        defines=_product_defines(tile_n, a_major, b_major, swizzle, dtype),
    )
    # Tensor cores truncate where float32 sums of 64 products are rounded.
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=1e-5, atol=5e-5)


def _compiled(source: str, arch: str, defines: dict[str, str | int]) -> nvrtc.Binary:
    binary = nvrtc.compile_source(str(KERNELS / source), arch=arch, defines=defines)
    assert all(needs.spilled_bytes == 0 for needs in binary.resources().values())
    # The compiler says so when it has to wait after each wgmma.
    assert "Potential Performance Loss" not in binary.log
    return binary


@pytest.mark.parametrize(("tile_n", "a_major", "b_major", "swizzle"), PRODUCTS)
@pytest.mark.usefixtures("kernel_cache")
def test_products_compile_for_hopper(tile_n, a_major, b_major, swizzle) -> None:
    for dtype in ELEMENTS:
        defines = _product_defines(tile_n, a_major, b_major, swizzle, dtype)
        assert _compiled("wgmma.cu", "sm_90a", defines).cubin


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a", "sm_120"])
@pytest.mark.usefixtures("kernel_cache")
def test_bulk_copies_and_clusters_compile_from_hopper_on(arch) -> None:
    for rank in (2, 3, 4):
        assert _compiled("hopper.cu", arch, {"RANK": rank}).cubin
    assert _compiled("cluster.cu", arch, {"BLOCKS": 8, "BUG": "NONE"}).cubin


GEMM = {"ELEMENT": "bf16", "TILE_N": 128, "B_MAJOR": "mn", "A_IN_REGISTERS": 0, "BUG": "NONE"}


@pytest.mark.parametrize(
    "variant", [{}, {"B_MAJOR": "k"}, {"A_IN_REGISTERS": 1}, {"ELEMENT": "fp16"}], ids=str
)
@pytest.mark.usefixtures("kernel_cache")
def test_a_product_of_specialised_warps_compiles_for_hopper(variant) -> None:
    assert _compiled("gemm_hopper.cu", "sm_90a", GEMM | variant).cubin


def _gemm(timing: str = "mixed", seed: int = 0, **variant: str | int) -> float:
    """The relative error of one product whose sizes end inside a tile."""
    defines = GEMM | variant
    m, n, k, tile_n = 100, 200, 640, int(defines["TILE_N"])
    dtype = torch.bfloat16 if defines["ELEMENT"] == "bf16" else torch.float16
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(m, k, generator=generator).to(dtype)
    b = torch.randn(k, n, generator=generator).to(dtype)
    c = torch.full((m, n), torch.nan)
    simulate(
        KERNELS / "gemm_hopper.cu",
        "gemm",
        TensorMap(c, (64, tile_n)),
        TensorMap(a, (64, 64), 128),
        TensorMap(b if defines["B_MAJOR"] == "mn" else b.T.contiguous(), (64, 64), 128),
        -(-k // 64),
        grid=(-(-n // tile_n), -(-m // 64)),
        block=256,
        shared_bytes=4 * (64 + tile_n) * 64 * 2 + 64 * tile_n * 4 + 1024,
        defines=defines,
        seed=seed,
        timing=timing,
    )
    expected = a.double() @ b.double()
    return float((c - expected).norm() / expected.norm())


@pytest.mark.parametrize("timing", ["early", "late", "mixed"])
@pytest.mark.parametrize(
    "variant", [{}, {"B_MAJOR": "k"}, {"A_IN_REGISTERS": 1}, {"ELEMENT": "fp16"}], ids=str
)
def test_a_product_of_specialised_warps_is_right_in_any_order(variant, timing) -> None:
    for seed in range(3):
        assert _gemm(timing, seed, **variant) < TOLERANCE


@pytest.mark.parametrize("bug", ["NO_WGMMA_WAIT", "RELEASED_TOO_SOON", "NO_EMPTY_WAIT", "NO_FULL_WAIT"])
@pytest.mark.parametrize("seed", range(3))
def test_a_missing_wait_gives_a_wrong_product_or_a_report(bug, seed) -> None:
    try:
        error = _gemm(seed=seed, BUG=bug)
    except SimulationError as report:
        assert re.search(r"arrivals of phase|deadlock", str(report))  # noqa: PT017 - either is right
    else:
        assert not error < 1e-2


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("NO_FENCE", r"wgmma without a wgmma_fence since the last wgmma_commit at gemm_hopper.cu:\d+"),
        ("NO_STORE_WAIT", "returns without having waited for store_box to read its shared memory"),
        (
            "WRONG_PARITY",
            r"threads 128-255 wait in mbarrier_wait for parity 0 of the barrier at byte \d+ at gemm",
        ),
        ("TOO_FEW_BYTES", r"barrier at byte \d+: phase 0 misses 0 of 1 arrivals and -16 bytes"),
        ("TOO_FEW_ARRIVALS", r"barrier at byte \d+: phase 0 misses 1 of 129 arrivals and 0 bytes"),
        ("NOT_INITIALISED", "mbarrier_arrive_expecting of a barrier that was not initialised"),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_a_mistake_with_barriers_and_bulk_copies_is_reported(bug, report, seed) -> None:
    with pytest.raises(SimulationError, match=report):
        _gemm(seed=seed, BUG=bug)
