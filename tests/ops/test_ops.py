"""Every operation against its slow reference in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tempa import ops
from tempa.ops import linear_loss, reference

# Both sides run in float64, so anything above rounding is a wrong formula.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    """Equal values, and equal gradients of a random combination of them."""
    torch.testing.assert_close(ours, theirs, **CLOSE)
    upstream = draw(*ours.shape, seed=99).detach()
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **CLOSE)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    window=st.sampled_from([None, 1, 5, 100]),
)
def test_packed_attention_equals_masked_softmax(
    lengths: list[int], heads: tuple[int, int], window: int | None
) -> None:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    total, (H, Hkv) = int(ends[-1]), heads
    q, k, v = draw(total, H, 8), draw(total, Hkv, 8, seed=1), draw(total, Hkv, 8, seed=2)
    ours = ops.attention(q, k, v, ops.AttentionSpec.packed(ends, window=window))
    if total:
        assert_same(ours, reference.attention(q, k, v, ends, window), [q, k, v])
    else:
        assert ours.shape == (0, H, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("num_new", [1, 4])
@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (3, 1)])
def test_paged_attention_equals_packed_whatever_the_block_order(
    dtype: torch.dtype, window: int | None, num_new: int, heads: tuple[int, int]
) -> None:
    """Float32 takes the compiled way, the rest gathers."""
    lengths, block_size, (H, Hkv), D = [5, 16, 33], 4, heads, 8
    ends = torch.tensor([0, *lengths]).cumsum(0)
    total = int(ends[-1])
    q, k, v = (
        x.detach().to(dtype)
        for x in (draw(total, H, D), draw(total, Hkv, D, seed=1), draw(total, Hkv, D, seed=2))
    )
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    tables = torch.zeros(3, 9, dtype=torch.int32)
    cache = ops.LayerCache(*(torch.full((20, Hkv, block_size, D), 1e3, dtype=dtype) for _ in range(2)))
    slots, used = [], 0
    for i, length in enumerate(lengths):
        blocks = order[used : used + -(-length // block_size)]
        used += len(blocks)
        tables[i, : len(blocks)] = blocks
        place = torch.arange(length)
        slots.append(blocks[place // block_size] * block_size + place % block_size)
    full = ops.AttentionSpec.packed(ends, window=window, slots=torch.cat(slots))
    expected = ops.attention(q, k, v, full, cache)
    new = torch.cat([torch.arange(end - num_new, end) for end in ends[1:].tolist()])
    spec = ops.AttentionSpec.paged(
        tables, torch.tensor(lengths), torch.cat(slots)[new], block_size=block_size, window=window
    )
    # float32 sums in another order: a few roundings of values of order 1.
    close = CLOSE if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(ops.attention(q[new], k[new], v[new], spec, cache), expected[new], **close)


def test_a_cache_refuses_gradients_instead_of_dropping_them() -> None:
    q, k, v = draw(2, 1, 8), draw(2, 1, 8), draw(2, 1, 8)
    cache = ops.LayerCache(*(torch.zeros(1, 1, 2, 8, dtype=torch.float64) for _ in range(2)))
    spec = ops.AttentionSpec.packed(torch.tensor([0, 2]), slots=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="keeps no gradients"):
        ops.attention(q, k, v, spec, cache)


def test_packed_spec_refuses_bounds_that_fall() -> None:
    with pytest.raises(ValueError, match="never decrease"):
        ops.AttentionSpec.packed(torch.tensor([0, 3, 2]))
    with pytest.raises(ValueError, match="window must be at least 1"):
        ops.AttentionSpec.packed(torch.tensor([0, 3]), window=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_equals_its_formula(weighted: bool) -> None:
    x, weight = draw(7, 3, 10), draw(10, seed=1) if weighted else None
    inputs = [x] if weight is None else [x, weight]
    assert_same(ops.rms_norm(x, weight, 1e-3), reference.rms_norm(x, weight, 1e-3), inputs)


def test_rms_norm_of_a_zero_row_is_zero_with_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    ops.rms_norm(x, torch.ones(4)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_keeps_half_precision_inputs_close(dtype: torch.dtype) -> None:
    x = draw(5, 64).to(dtype).detach().requires_grad_()
    y = ops.rms_norm(x, torch.ones(64))
    assert y.dtype == dtype
    # One rounding of the result: half of the spacing of values around 4.
    torch.testing.assert_close(y.double(), reference.rms_norm(x.double()), rtol=2**-8, atol=1e-3)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


def test_rope_equals_rotation_matrices() -> None:
    x, positions = draw(6, 3, 8), torch.tensor([0, 1, 2, 500, 7, 1023])
    turns = ops.rotations(positions, 8, max_positions=1024, dtype=torch.float64)
    assert_same(ops.rope(x, turns), reference.rope(x, positions), [x])


def test_rope_scores_depend_on_distance_only() -> None:
    q, k = draw(1, 1, 16).detach(), draw(1, 1, 16, seed=1).detach()

    def score(i: int, j: int) -> float:
        turns = ops.rotations(torch.tensor([i, j]), 16, max_positions=4096, dtype=torch.float64)
        return float((ops.rope(q, turns[:1]) * ops.rope(k, turns[1:])).sum())

    assert score(5, 2) == pytest.approx(score(4003, 4000), abs=1e-9)


def test_rope_tables_stay_float32_for_bfloat16_models() -> None:
    """Trap N1: bfloat16 cannot tell positions above 256 apart."""
    turns = ops.rotations(torch.tensor([1000, 1001]), 8, max_positions=2048)
    assert turns.dtype == torch.complex64
    x = torch.ones(2, 1, 8, dtype=torch.bfloat16)
    out = ops.rope(x, turns)
    assert out.dtype == torch.bfloat16
    assert not torch.equal(out[0], out[1])


def test_a_table_made_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        ops.rotations(torch.tensor([0]), 6, max_positions=17)
    x = draw(2, 1, 6)
    ops.rope(
        x, ops.rotations(torch.tensor([0, 16]), 6, max_positions=17, dtype=torch.float32)
    ).sum().backward()


def test_activations_equal_their_formulas() -> None:
    x = draw(5, 12)
    assert_same(ops.relu2(x), x.clamp(min=0) ** 2, [x])
    gate, up = x[:, :6], x[:, 6:]
    assert_same(ops.swiglu(x), gate * gate.sigmoid() * up, [x])


@pytest.fixture(params=["one chunk", "chunks"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "chunks":
        monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", 3 * 11)
        monkeypatch.setattr(linear_loss, "CHUNK_TOKENS", 1)
        monkeypatch.setattr(linear_loss, "KEPT_LOGITS", 0)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("cap", [None, 2.0])
def test_cross_entropy_equals_the_full_table_of_logits(cap: float | None) -> None:
    hidden, weight = draw(10, 6), draw(11, 6, seed=1)
    targets, weights = torch.arange(10), torch.linspace(0, 2, 10, dtype=torch.float64)
    loss, total = ops.linear_cross_entropy(hidden, weight, targets, weights, softcap=cap)
    assert total == weights.sum()
    expected = -(reference.logp(hidden, weight, targets, softcap=cap) * weights).sum()
    assert_same(loss, expected, [hidden, weight])
    with torch.no_grad():
        without_gradient, _ = ops.linear_cross_entropy(hidden, weight, targets, weights, softcap=cap)
    torch.testing.assert_close(without_gradient, expected.detach(), **CLOSE)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("cap", [None, 2.0])
def test_logp_equals_the_full_table_of_logits(cap: float | None) -> None:
    hidden, weight, targets = draw(10, 6), draw(11, 6, seed=1), torch.arange(10)
    ours = ops.linear_logp(hidden, weight, targets, temperature=0.7, softcap=cap)
    assert_same(ours, reference.logp(hidden, weight, targets, 0.7, cap), [hidden, weight])
    with torch.no_grad():
        assert torch.equal(ours, ops.linear_logp(hidden, weight, targets, temperature=0.7, softcap=cap))


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("num_tokens", [0, 10])
def test_no_trained_token_gives_zero_loss_and_zero_gradient(num_tokens: int) -> None:
    """Trap L12: a fully masked batch is 0, never NaN."""
    hidden, weight = draw(num_tokens, 6), draw(11, 6, seed=1)
    loss, total = ops.linear_cross_entropy(
        hidden, weight, torch.zeros(num_tokens, dtype=torch.int64), torch.zeros(num_tokens)
    )
    loss.backward()
    assert (loss, total) == (0, 0)
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_logp_refuses_temperature_zero() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        ops.linear_logp(draw(1, 2), draw(3, 2), torch.tensor([0]), temperature=0.0)
