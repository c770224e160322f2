"""Slow and obviously correct versions of the operations, in any floating dtype; tests compare with these."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int | None = None) -> Tensor:
    """Causal attention of packed sequences; `window` counts the query itself."""
    left = None if window is None else window - 1
    return packed_attention(q, k, v, cu_seqlens, cu_seqlens, left=left, right=0)[0]


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    left: int | None = None,
    right: int | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """All pairs of tokens, then a mask: same sequence, at most `left` places before and `right` behind.

    The last query and the last key of a sequence stand at the same place. Tokens behind the last sequence see
    nothing. A sink is a score without a value.

    Returns:
        The result (Tq, H, D), 0 where a query sees nothing, and the logarithm of the sum of e^score (H, Tq).
    """
    scores, _ = packed_scores(q, k, cu_seqlens_q, cu_seqlens_k, alibi_slopes, scale, left, right, softcap)
    every = scores
    if sinks is not None:
        every = torch.cat([scores, sinks[:, None, None].to(scores).expand(-1, len(q), 1)], dim=-1)
    lse = every.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse.isneginf(), 0)[..., None]).exp()
    return torch.einsum("hij,jhd->ihd", weights, v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)), lse


def packed_scores(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None = None,
    scale: float | None = None,
    left: int | None = None,
    right: int | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor | float]:
    """(H, Tq, Tk) masked scores of `packed_attention`, and their derivative by the product of q and k."""
    query, num_queries, query_place = _places(len(q), cu_seqlens_q)
    key, num_keys, key_place = _places(len(k), cu_seqlens_k)
    query_place = query_place + (num_keys - num_queries)[query]
    distance = key_place - query_place[:, None]  # (Tq, Tk)
    seen = (query[:, None] == key) & (key < len(num_keys) - 1)
    if left is not None:
        seen &= distance >= -left
    if right is not None:
        seen &= distance <= right
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)) * scale
    derivative: Tensor | float = scale
    if softcap:
        tanh = (scores / softcap).tanh()
        scores, derivative = softcap * tanh, scale * (1 - tanh.square())
    if alibi_slopes is not None:
        scores = scores - alibi_slopes[:, None, None].to(scores) * distance.abs()
    return scores.masked_fill(~seen, -torch.inf), derivative


def _places(num_tokens: int, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sequence of each token, the length of each and of the rest, the place of each token in its own."""
    token = torch.arange(num_tokens, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    ends = torch.cat([cu_seqlens[1:], cu_seqlens.new_tensor([num_tokens])])
    return sequence, ends - cu_seqlens, token - cu_seqlens[sequence]


def activation(x: Tensor, function: str, *, gated: bool) -> Tensor:
    """`f(gate) * up` of the halves of each row, or f(x), for "silu", "gelu" (by erf) or "relu2"."""
    gate, up = x.chunk(2, dim=-1) if gated else (x, torch.ones_like(x))
    if function == "silu":
        return gate / (1 + (-gate).exp()) * up
    if function == "gelu":
        return gate * (1 + (gate / 2**0.5).erf()) / 2 * up
    return gate.clamp(min=0).square() * up


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    starts: Tensor,
    *,
    window: int | None = None,
    sinks: int = 0,
    softcap: float | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Each new token by itself, its keys and values gathered from blocks of (Hkv, size, D)."""
    out = torch.empty_like(q)
    group, size = q.shape[1] // keys.shape[1], keys.shape[2]
    for i, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
        for token in range(start, stop):
            position = int(lengths[i]) - stop + token
            place = torch.arange(position + 1, device=q.device)
            if window is not None:
                place = place[(place > position - window) | (place < sinks)]
            blocks = tables[i, place // size].long()
            k, v = (
                pool[blocks, :, place % size].repeat_interleave(group, dim=1).to(q.dtype)
                for pool in (keys, values)
            )
            scores = torch.einsum("hd,jhd->hj", q[token], k) / q.shape[-1] ** 0.5
            if softcap is not None:
                scores = softcap * (scores / softcap).tanh()
            if slopes is not None:
                scores = scores - slopes[:, None].to(q.dtype) * (position - place)
            out[token] = torch.einsum("hj,jhd->hd", scores.softmax(-1), v)
    return out


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Root mean square over the last dimension."""
    unit = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return unit if weight is None else unit * weight


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Deviations from the mean over the last dimension, by their root mean square."""
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    scaled = unit if weight is None else unit * weight
    return scaled if bias is None else scaled + bias


def rope(x: Tensor, positions: Tensor, theta: float = 10000.0) -> Tensor:
    """The rotation matrix of each pair, written out."""
    out = torch.empty_like(x)
    for i in range(0, x.shape[-1], 2):
        angle = (positions.double() / theta ** (i / x.shape[-1]))[:, None].to(x.dtype)
        out[..., i] = x[..., i] * angle.cos() - x[..., i + 1] * angle.sin()
        out[..., i + 1] = x[..., i] * angle.sin() + x[..., i + 1] * angle.cos()
    return out


def logp(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    """Log-probability of each target from the full table of logits."""
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    return (logits / temperature).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def adamw(
    parameter: Tensor,
    gradients: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Tensor:
    """The parameter after one step for each gradient (Loshchilov and Hutter, 2019, algorithm 2)."""
    mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for step, gradient in enumerate(gradients, 1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient.square()
        ratio = mean / (1 - betas[0] ** step) / ((square / (1 - betas[1] ** step)).sqrt() + eps)
        parameter = parameter - lr * (ratio + weight_decay * parameter)
    return parameter


def discounted_sums(values: Tensor, offsets: Tensor, decay: float) -> Tensor:
    """`sum_{k >= t} decay^(k - t) x_k` within each response, from its end."""
    out = values.clone()
    for first, end in itertools.pairwise(offsets.tolist()):
        for at in range(end - 2, first - 1, -1):
            out[at] += decay * out[at + 1]
    return out
