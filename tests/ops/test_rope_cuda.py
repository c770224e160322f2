"""The kernels of `cuda/rope.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_rope.py` runs them where they belong.
"""

from __future__ import annotations

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.ops import LayerCache, nvrtc, reference, rope_cuda, rotations

# A result is rounded once; factors and products in float32 add a few of its units.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
REGISTERS = 80  # of 65536, so that three blocks of 256 threads, each with four packs on their way, fit


def _inputs(num_tokens, num_heads, num_kv_heads, head_dim, dtype, seed=0):
    """Parts of one product as the model has them, positions and the factors for them."""
    generator = torch.Generator().manual_seed(seed)
    heads = num_heads + 2 * num_kv_heads
    qkv = torch.randn(num_tokens, heads, head_dim, generator=generator).to(dtype)
    positions = torch.randint(0, 500, (num_tokens,), generator=generator)
    turns = rotations(positions, head_dim, max_positions=500)
    return qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1), positions, turns


def _grid(num_tokens, num_heads, head_dim, vector):
    return rope_cuda._num_blocks(num_tokens, num_heads, head_dim // vector)


def _turned(source, x, turns, vector, direction=1.0, seed=0):
    y = torch.full(x.shape, torch.nan, dtype=x.dtype)
    T, H, D = x.shape
    simulate(
        source,
        "rope",
        *(y, x, torch.view_as_real(turns)),
        T,
        H,
        *rope_cuda.strides_of(x),
        direction,
        grid=_grid(T, H, D, vector),
        block=rope_cuda.THREADS,
        defines=rope_cuda.defines(x.dtype, D, vector),
        seed=seed,
    )
    return y


# Heads that do not fill the last thread of a token, head sizes with 1 to 10 packs, and pairs without packs.
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "head_dim", "dtype", "vector"),
    [
        (13, 6, 64, torch.bfloat16, 8),
        (1, 1, 64, torch.bfloat16, 8),
        (7, 5, 20, torch.float32, 4),
        (5, 9, 6, torch.float16, 2),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_simulated_rotations_and_their_gradient_equal_the_reference(
    num_tokens, num_heads, head_dim, dtype, vector, seed
) -> None:
    (q, _, dy), positions, turns = _inputs(num_tokens, num_heads, num_heads, head_dim, dtype, seed)
    wide = q.double().requires_grad_()
    expected = reference.rope(wide, positions)
    expected.backward(dy.double())
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    y = _turned(rope_cuda.SOURCE, q, turns, vector, seed=seed)
    torch.testing.assert_close(y.double(), expected.detach(), **close)
    dx = _turned(rope_cuda.SOURCE, dy, turns, vector, direction=-1.0, seed=seed)
    torch.testing.assert_close(dx.double(), wide.grad, **close)


def _to_cache(source, q, k, v, turns, slots, cache, vector, seed=0):
    (T, H, D), (blocks, heads, block_size, _) = q.shape, cache.keys.shape
    q_out, k_out = (torch.full(x.shape, torch.nan, dtype=x.dtype) for x in (q, k))
    simulate(
        source,
        "rope_to_cache",
        *(q_out, k_out, cache.keys, cache.values, q, k, v, torch.view_as_real(turns), slots),
        T,
        H,
        heads,
        *(stride for x in (q, k, v) for stride in rope_cuda.strides_of(x)),
        blocks * block_size,
        block_size,
        grid=_grid(T, H + 2 * heads, D, vector),
        block=rope_cuda.THREADS,
        defines=rope_cuda.defines(q.dtype, D, vector),
        seed=seed,
    )
    return q_out, k_out


def _cache_case(dtype=torch.bfloat16, head_dim=64):
    """(inputs, slots, an untouched cache); the third and fifth token have no slot."""
    (q, k, v), positions, turns = _inputs(6, 4, 2, head_dim, dtype)
    cache = LayerCache(*(torch.full((5, 2, 4, head_dim), 7.0, dtype=dtype) for _ in range(2)))
    return (q, k, v, turns), positions, torch.tensor([19, 0, -1, 6, 20, 7]), cache


def _check_cache(source, dtype, head_dim, vector, seed=0):
    (q, k, v, turns), positions, slots, cache = _cache_case(dtype, head_dim)
    expected = LayerCache(cache.keys.clone(), cache.values.clone())
    q_out, k_out = _to_cache(source, q, k, v, turns, slots, cache, vector, seed)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(q_out.double(), reference.rope(q.double(), positions), **close)
    torch.testing.assert_close(k_out.double(), reference.rope(k.double(), positions), **close)
    kept = torch.tensor([0, 1, 3, 5])
    expected.write(slots[kept], k_out[kept], v[kept])
    assert torch.equal(cache.keys, expected.keys)
    assert torch.equal(cache.values, expected.values)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("dtype", "head_dim", "vector"), [(torch.bfloat16, 64, 8), (torch.float16, 6, 2)])
def test_simulated_keys_and_values_go_to_their_slots_and_nowhere_else(dtype, head_dim, vector, seed) -> None:
    _check_cache(rope_cuda.SOURCE, dtype, head_dim, vector, seed)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("rotation.turn(heads[i], 1.0f)", "rotation.turn(heads[i], -1.0f)"),
        ("kept_slot % block_size", "(kept_slot + 1) % block_size"),
        ("slot < num_slots", "slot <= num_slots"),
    ],
)
def test_a_wrong_turn_or_slot_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, rope_cuda.SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check_cache(source, torch.bfloat16, 64, 8)


def test_bfloat16_results_are_at_least_as_near_as_those_of_torch() -> None:
    (q, _, _), positions, turns = _inputs(50, 4, 1, 64, torch.bfloat16)
    expected = reference.rope(q.double(), positions)
    pairs = torch.view_as_complex(q.unflatten(-1, (-1, 2)).float())
    by_torch = torch.view_as_real(pairs * turns).flatten(-2).bfloat16()
    errors = [float((y - expected).norm()) for y in (_turned(rope_cuda.SOURCE, q, turns, 8), by_torch)]
    assert errors[0] <= 1.001 * errors[1]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "vector"),
    [(torch.bfloat16, 128, 8), (torch.bfloat16, 80, 8), (torch.float32, 64, 4), (torch.float16, 6, 2)],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_within_their_budget(arch, dtype, head_dim, vector) -> None:
    defines = rope_cuda.defines(dtype, head_dim, vector)
    resources = nvrtc.compile_source(rope_cuda.SOURCE, arch=arch, defines=defines).resources()
    assert set(resources) == {"rope", "rope_to_cache"}
    for entry, needs in resources.items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers <= REGISTERS, entry


def test_the_operators_pass_opcheck() -> None:
    (q, k, v), _, turns = _inputs(5, 4, 2, 8, torch.float32)
    torch.library.opcheck(torch.ops.tempa.rope.default, (q.clone().requires_grad_(), turns, False))
    cache = LayerCache(torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4, 8))
    slots = torch.tensor([1, 5, -1, 11, 12])
    arguments = (q, k, v, turns, slots, cache.keys, cache.values)
    # Its outputs have no gradient, which the check of schemas alone does not mind.
    torch.library.opcheck(
        torch.ops.tempa.rope_to_cache.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


def test_the_operators_equal_their_references() -> None:
    (q, k, v), positions, turns = _inputs(6, 4, 2, 8, torch.float32)
    leaf = q.clone().requires_grad_()
    wide = q.double().requires_grad_()
    ours, theirs = torch.ops.tempa.rope(leaf, turns, False), reference.rope(wide, positions)
    torch.testing.assert_close(ours, theirs.float())
    (mine,), (expected,) = (
        torch.autograd.grad(out.sin().sum(), x) for out, x in ((ours, leaf), (theirs, wide))
    )
    torch.testing.assert_close(mine, expected.float())

    (q, k, v, turns), positions, slots, cache = _cache_case(torch.float32)
    expected = LayerCache(cache.keys.clone(), cache.values.clone())
    q_out, k_out = torch.ops.tempa.rope_to_cache(q, k, v, turns, slots, cache.keys, cache.values)
    kept = torch.tensor([0, 1, 3, 5])
    expected.write(slots[kept], k_out[kept], v[kept])
    torch.testing.assert_close(q_out, reference.rope(q.double(), positions).float())
    torch.testing.assert_close((cache.keys, cache.values), (expected.keys, expected.values))


def test_what_the_kernels_cannot_read_is_rejected() -> None:
    (q, k, v, turns), _, slots, cache = _cache_case(torch.float32, 8)
    y = torch.empty(q.shape)
    with pytest.raises(ValueError, match=r"expected torch.complex64 on cpu, but got torch.complex128"):
        rope_cuda.turn_into(y, q, turns.to(torch.complex128))
    with pytest.raises(ValueError, match=r"do not fit: \[\(6, 4, 8\), \(6, 4, 8\), \(5, 1, 4\)\]"):
        rope_cuda.turn_into(y, q, turns[:5])
    with pytest.raises(ValueError, match="heads in one piece"):
        rope_cuda.turn_into(y, torch.empty(6, 8, 4).transpose(1, 2), turns)
    with pytest.raises(ValueError, match="starts at an odd element"):
        rope_cuda.turn_into(y, torch.empty(1 + y.numel())[1:].view_as(y), turns)
    outputs = torch.empty(q.shape), torch.empty(k.shape)
    with pytest.raises(ValueError, match="expected 6 slots in one piece"):
        rope_cuda.turn_to_cache(*outputs, q, k, v, turns, slots[:5], cache.keys, cache.values)
    with pytest.raises(ValueError, match="cache do not fit"):
        rope_cuda.turn_to_cache(*outputs, q, k, v, turns, slots, cache.keys[:, :1].clone(), cache.values)
    with pytest.raises(ValueError, match=r"expected torch.int64 on cpu, but got torch.int32"):
        rope_cuda.turn_to_cache(*outputs, q, k, v, turns, slots.int(), cache.keys, cache.values)
