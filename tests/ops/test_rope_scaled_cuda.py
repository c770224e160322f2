"""The kernel of `cuda/rope_scaled.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_rope_scaled.py` runs it where it belongs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.model import Decoder, KvCache, ModelConfig, Transformer
from tempa.ops import nvrtc, rope, rope_scaled_cuda, rotations, scaled
from tempa.ops.rope_cuda import strides_of
from tempa.ops.rope_scaled_cuda import SOURCE, THREADS

INT8, E4M3 = torch.int8, torch.float8_e4m3fn
BLOCKS, BLOCK_SIZE, HEADS, KV_HEADS = 5, 4, 6, 2
# The third and fifth token have no slot.
SLOTS = torch.tensor([19, 0, -1, 6, 20, 7])
REGISTERS = 64  # of 65536, so that 1024 threads of 256 a block are on a multiprocessor


def _case(dtype, head_dim, seed=0):
    """Parts of one product as the model has them, and the factors to turn them by.

    Among the values are a row of zeros, one with NaN and one with infinity, and one too small for a scale.
    """
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(len(SLOTS), HEADS + 2 * KV_HEADS, head_dim, generator=generator).to(dtype)
    q, k, v = qkv.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    v[0, 0], v[1, 0, 1], v[3, 1, 2], v[5, 1] = 0, torch.nan, -torch.inf, 1e-38
    positions = torch.randint(0, 500, (len(SLOTS),), generator=generator)
    return q, k, v, rotations(positions, head_dim, max_positions=500)


def _pools(kept, head_dim):
    shape = (2, BLOCKS, scaled.block_bytes(KV_HEADS, BLOCK_SIZE, head_dim))
    return torch.full(shape, 7, dtype=torch.int8).view(kept)


def _simulated(source, q, k, v, turns, pools, vector, seed=0):
    q_out, k_out = (torch.full(x.shape, torch.nan, dtype=x.dtype) for x in (q, k))
    defines = rope_scaled_cuda.defines(k.dtype, pools.dtype, k.shape[2], vector)
    lanes = defines["LANES"] * len(SLOTS) * (q.shape[1] + 2 * KV_HEADS)
    # As bytes, which is how the simulator keeps them.
    keys, values = pools.view(torch.int8)
    simulate(
        source,
        "rope_to_scaled_cache",
        *(q_out, k_out, keys, values, q, k, v, None if turns is None else torch.view_as_real(turns), SLOTS),
        *(len(SLOTS), q.shape[1], KV_HEADS),
        *(stride for x in (q, k, v) for stride in strides_of(x)),
        *(BLOCKS * BLOCK_SIZE, BLOCK_SIZE),
        grid=-(-lanes // THREADS),
        block=THREADS,
        defines=defines,
        seed=seed,
    )
    return q_out, k_out


def _check(source, dtype, kept, head_dim, vector, seed=0):
    q, k, v, turns = _case(dtype, head_dim, seed)
    ours, theirs = _pools(kept, head_dim), _pools(kept, head_dim)
    q_out, k_out = _simulated(source, q, k, v, turns, ours, vector, seed)
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(
        (q_out, k_out), (rope(q, turns), rope(k, turns)), rtol=tolerance, atol=tolerance
    )
    # What is kept is exact: the nearest number to what was turned.
    for pool, rows in zip(theirs, (k_out, v), strict=True):
        scaled.write(pool, SLOTS, rows, BLOCK_SIZE)
    rows_end = KV_HEADS * BLOCK_SIZE * head_dim
    ours, theirs = ours.view(torch.int8), theirs.view(torch.int8)
    assert torch.equal(ours[..., :rows_end], theirs[..., :rows_end])
    scales, expected = (x[..., rows_end:].contiguous().view(torch.float32) for x in (ours, theirs))
    torch.testing.assert_close(scales, expected, rtol=0, atol=0, equal_nan=True)


# Heads of one pack, of 4 to 10, of pairs, and of more packs than a warp has lanes.
@pytest.mark.parametrize(
    ("dtype", "kept", "head_dim", "vector"),
    [
        (torch.bfloat16, INT8, 64, 8),
        (torch.float16, E4M3, 80, 8),
        (torch.float32, INT8, 16, 4),
        (torch.bfloat16, E4M3, 72, 2),
        (torch.bfloat16, INT8, 8, 8),
    ],
    ids=str,
)
def test_simulated_rows_are_those_of_the_cpu_and_go_nowhere_else(dtype, kept, head_dim, vector) -> None:
    for seed in range(2):
        _check(SOURCE, dtype, kept, head_dim, vector, seed)


def test_without_rotations_and_queries_values_are_kept_as_they_are() -> None:
    _, k, v, _ = _case(torch.bfloat16, 64)
    pools, expected = _pools(INT8, 64), _pools(INT8, 64)
    _, k_out = _simulated(SOURCE, k[:, :0], k, v, None, pools, 8)
    assert torch.equal(k_out, k)
    for pool, rows in zip(expected, (k, v), strict=True):
        scaled.write(pool, SLOTS, rows, BLOCK_SIZE)
    torch.testing.assert_close(*(scaled.unscaled(x[0], KV_HEADS, BLOCK_SIZE, 64) for x in (pools, expected)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("offset = LANES / 2", "offset = LANES / 4"),
        ("slot >= num_slots", "slot > num_slots"),
        ("[kept_row] = scale", "[kept_row + 1] = scale"),
        ("if (rotations && value_head < 0)", "if (rotations)"),
        ("scale > MIN_NORMAL && ", ""),
        (" && scale < infinity()", ""),
    ],
)
def test_a_wrong_row_scale_or_turn_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, torch.bfloat16, E4M3, 64, 8)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(
    ("dtype", "kept", "head_dim", "vector"),
    [(torch.bfloat16, INT8, 64, 8), (torch.bfloat16, E4M3, 128, 8), (torch.float32, INT8, 256, 4)],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_within_its_budget(arch, dtype, kept, head_dim, vector) -> None:
    defines = rope_scaled_cuda.defines(dtype, kept, head_dim, vector)
    (needs,) = nvrtc.compile_source(SOURCE, arch=arch, defines=defines).resources().values()
    assert needs.spilled_bytes == 0
    assert 0 < needs.registers <= REGISTERS


def test_rows_of_int8_are_those_of_the_decoder() -> None:
    """The first layer's keys and values do not depend on what is kept: float32 ones are what is rounded."""
    model = Transformer(ModelConfig(vocab_size=50, depth=1, width=32, num_heads=4, num_kv_heads=2))
    ids, table = np.arange(11), np.array([[2, 0, 3]], np.int32)
    exact, rounded = (
        KvCache(model.config, num_blocks=4, block_size=4, dtype=dtype) for dtype in (torch.float32, INT8)
    )
    for cache in (exact, rounded):
        Decoder(model)(ids, cache=cache, tables=table, lengths=np.array([11]))
    ours = KvCache(model.config, num_blocks=4, block_size=4, dtype=INT8)
    slots = torch.tensor([table[0, i // 4] * 4 + i % 4 for i in range(11)])
    rows = exact.blocks[:, :, slots // 4, :, slots % 4]  # (T, depth, 2, Hkv, D)
    ours.write(slots, rows.permute(1, 2, 0, 3, 4))
    assert torch.equal(ours.blocks, rounded.blocks)


@pytest.mark.parametrize("kept", [INT8, E4M3], ids=str)
def test_the_operator_passes_opcheck(kept) -> None:
    q, k, v, turns = _case(torch.float32, 16)
    keys, values = _pools(kept, 16)
    operator = torch.ops.tempa.rope_to_scaled_cache.default
    # What compares a schema with what was done knows no e4m3.
    tests = ("test_schema", "test_faketensor") if kept == INT8 else ("test_faketensor",)
    for rotation in (turns, None):
        arguments = (q, k, v.nan_to_num(), rotation, SLOTS, keys, values, BLOCK_SIZE)
        torch.library.opcheck(operator, arguments, test_utils=tests)


def test_a_row_loses_at_most_half_a_step() -> None:
    rows = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    for kept, error in ((INT8, 0.5), (E4M3, 16.0)):
        numbers, scales = scaled.quantised(rows, kept)
        assert numbers.float().abs().max() == scaled.LARGEST[kept]
        assert ((numbers.float() * scales[:, None] - rows).abs() <= 1.001 * error * scales[:, None]).all()


def test_what_the_kernel_cannot_write_is_rejected() -> None:
    q, k, v, turns = _case(torch.bfloat16, 64)
    keys, values = _pools(INT8, 64)

    def launch(k=k, slots=SLOTS, keys=keys, values=values, turns=turns, block_size=BLOCK_SIZE):
        outputs = torch.empty(q.shape, dtype=q.dtype), torch.empty(k.shape, dtype=k.dtype)
        rope_scaled_cuda.turn_to_scaled_cache(
            *outputs, q, k, v, turns, slots, keys, values, block_size=block_size
        )

    with pytest.raises(ValueError, match=r"expected 6 slots of int64 in one piece, got \(5,\)"):
        launch(slots=SLOTS[:5])
    with pytest.raises(ValueError, match="queries, keys and values do not fit"):
        launch(k=k[:, :1])
    with pytest.raises(ValueError, match=r"expected blocks of 272 bytes in one piece, got shape \(5, 544\)"):
        launch(block_size=2)
    with pytest.raises(ValueError, match=r"int8 or e4m3 on cpu is needed, got torch.uint8"):
        launch(keys=keys.view(torch.uint8))
    with pytest.raises(ValueError, match="scales would not be aligned"):
        launch(keys=torch.zeros(5 * 544 + 1, dtype=INT8)[1:].view(5, 544))
    with pytest.raises(ValueError, match=r"rope on CUDA: expected torch\.complex64"):
        launch(turns=turns.to(torch.complex128))
