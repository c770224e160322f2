"""Causal attention over sequences of different lengths, without padding and without masks of (T, T).

An `AttentionSpec` says which tokens belong together and is built once per batch; every layer uses the same.
Three layouts share one entry point: packed sequences (training, scoring), packed sequences whose keys and
values are also written to a paged cache (prefill), and new tokens that attend to a paged cache (decode).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tempa import _core
from tempa.data.upload import upload
from tempa.ops import attention_cuda as attention_cuda  # registers torch.ops.tempa.attention
from tempa.ops import attention_kernels, cuda_tensors, paged_cuda, rope_cuda, scaled
from tempa.ops import rope_scaled_cuda as rope_scaled_cuda  # registers torch.ops.tempa.rope_to_scaled_cache
from tempa.ops.rope import rope

# A sequence joins a bucket if padding it to the bucket's length adds at most this share, or this many tokens:
# one more call to the kernel costs about as much as a few padded tokens.
PADDING_SHARE = 1 / 8
PADDING_TOKENS = 8


@dataclass(frozen=True)
class PagedGroup:
    """Sequences with equally many new tokens.

    Attributes:
        tokens: Their new tokens.
        tables: (n, blocks) int32, the cache blocks of each.
        mask: (n, 1, L, S) bool, which cached places each of the L new tokens sees.
    """

    tokens: slice
    tables: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Buckets:
    """Packed sequences, padded in groups of similar lengths.

    Attributes:
        shapes: (sequences, padded length) of each group.
        spread: (P,) int64, the token at each padded place, or None if the tokens already are the buckets.
        collect: (T,) int64, the padded place of each token, or None as above.
    """

    shapes: tuple[tuple[int, int], ...]
    spread: Tensor | None = None
    collect: Tensor | None = None

    @classmethod
    def of(cls, bounds: NDArray[np.int64], device: torch.device) -> Buckets:
        """The groups of sequences with these boundaries."""
        lengths = np.diff(bounds)
        num_tokens, longest = int(bounds[-1]), int(lengths.max(initial=0))
        if num_tokens == longest * len(lengths):
            return cls(((len(lengths), longest),) if num_tokens else ())
        order = np.argsort(-lengths, kind="stable")
        order = order[: np.count_nonzero(lengths)]
        bucket_list, places = [], []
        for rows in _buckets(order, lengths):
            length = int(lengths[rows[0]])
            column = np.arange(length)
            place = np.where(column < lengths[rows, None], bounds[rows, None] + column, -1)
            bucket_list.append((len(rows), length))
            places.append(place.ravel())
        spread = np.concatenate(places)
        collect = np.empty(num_tokens, np.int64)
        held = np.flatnonzero(spread >= 0)
        collect[spread[held]] = held
        spread.clip(min=0, out=spread)  # a padded place may hold any token: no real query sees it
        return cls(tuple(bucket_list), *upload([spread, collect], device))


@dataclass(frozen=True)
class AttentionSpec:
    """Which tokens attend to which; made by `packed` or `paged`.

    Attributes:
        num_tokens: Query tokens in the batch.
        max_length: Tokens of the longest sequence, cached ones included.
        window: How many tokens back a query sees, itself included; all when None.
        slots: (T,) int64, where the cache keeps each token's key and value, or None without a cache.
        bounds: (n + 1,) int64, the boundaries given to `packed`, on the host.
        cu_seqlens: (n + 1,) int32, the same as kernels read them.
        tables: (n, blocks) int32, the cache blocks of each sequence, or None for `packed`.
        lengths: (n,) int64, tokens of each sequence, the new ones included, or None for `packed`.
        host_lengths: (n,) int64, the same on the host.
        starts: (n + 1,) int64, where the new tokens of each sequence start, on the host, for `paged`.
        block_size: Tokens per cache block, for `paged`.
        plans: What kernels have worked out for this batch, by their own keys.
    """

    num_tokens: int
    max_length: int
    window: int | None
    slots: Tensor | None = None
    bounds: NDArray[np.int64] | None = None
    cu_seqlens: Tensor | None = None
    tables: Tensor | None = None
    lengths: Tensor | None = None
    host_lengths: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None
    block_size: int = 0
    plans: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def packed(
        cls,
        cu_seqlens: Tensor,
        *,
        bounds: NDArray[np.int64] | None = None,
        window: int | None = None,
        slots: Tensor | None = None,
    ) -> AttentionSpec:
        """Sequences one after the other, each attending to itself only.

        Args:
            cu_seqlens: (n + 1,) integers, the boundaries, from 0 to T. The spec lives on their device.
            bounds: The same on the host where they are known: to ask a device is to wait for it.
            window: How many tokens back a query sees, itself included; all when None.
            slots: (T,) int64, where to write keys and values in the cache that the model is given.
        """
        _check_window(window)
        if bounds is None:
            bounds = cu_seqlens.cpu().numpy().astype(np.int64)
        lengths = np.diff(bounds)
        if bounds[0] != 0 or (lengths < 0).any():
            raise ValueError(f"cu_seqlens must start at 0 and never decrease, got {bounds.tolist()[:8]}...")
        longest = int(lengths.max(initial=0))
        return cls(int(bounds[-1]), longest, window, slots=slots, bounds=bounds, cu_seqlens=cu_seqlens.int())

    @cached_property
    def buckets(self) -> Buckets:
        """For `packed`, the sequences as `scaled_dot_product_attention` takes them."""
        assert self.bounds is not None
        assert self.cu_seqlens is not None
        return Buckets.of(self.bounds, self.cu_seqlens.device)

    @classmethod
    def paged(
        cls,
        tables: Tensor,
        lengths: Tensor,
        slots: Tensor,
        *,
        block_size: int,
        host_lengths: NDArray[np.int64] | None = None,
        starts: NDArray[np.int64] | None = None,
        window: int | None = None,
    ) -> AttentionSpec:
        """The last tokens of sequences whose earlier ones are in the cache.

        Args:
            tables: (n, blocks) int32; row i lists the blocks of sequence i, then anything valid.
            lengths: (n,) int64, tokens of each sequence, the new ones included.
            slots: (T,) int64, where the keys and values of the new tokens go, one sequence after the other.
            block_size: Tokens per cache block.
            host_lengths: `lengths` on the host where they are known: to ask a device is to wait for it.
            starts: (n + 1,) where the new tokens of each sequence start; equally many of each when None.
            window: How many tokens back a query sees, itself included; all when None.
        """
        _check_window(window)
        if host_lengths is None:
            host_lengths = lengths.cpu().numpy()
        if starts is None:
            starts = np.arange(len(lengths) + 1) * (len(slots) // max(len(lengths), 1))
        return cls(
            len(slots),
            int(host_lengths.max(initial=0)),
            window,
            slots=slots,
            tables=tables,
            lengths=lengths,
            host_lengths=host_lengths,
            starts=starts,
            block_size=block_size,
        )

    @cached_property
    def groups(self) -> list[PagedGroup]:
        """Runs of sequences with equally many new tokens, for `paged`."""
        assert self.lengths is not None
        assert self.tables is not None
        assert self.starts is not None
        counts = np.diff(self.starts)
        cuts = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)] if len(counts) else []
        groups: list[PagedGroup] = []
        for first, last in itertools.pairwise(cuts):
            rows, num_new = slice(first, last), int(counts[first])
            tables, lengths = self.tables[rows], self.lengths[rows]
            place = torch.arange(tables.shape[1] * self.block_size, device=lengths.device)  # (S,)
            query = lengths[:, None] - num_new + torch.arange(num_new, device=lengths.device)
            query = query[:, None, :, None]  # (n, 1, L, 1)
            seen = place <= query
            mask = seen if self.window is None else seen & (place > query - self.window)
            tokens = slice(int(self.starts[first]), int(self.starts[last]))
            groups.append(PagedGroup(tokens, tables, mask))
        return groups


def _check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1 token, got {window}")


def _buckets(order: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut sequences in order of falling length into groups that may be padded to their first."""
    groups, start = [], 0
    while start < len(order):
        longest = lengths[order[start]]
        shortest = min(longest * (1 - PADDING_SHARE), longest - PADDING_TOKENS)
        stop = start + int(np.searchsorted(-lengths[order[start:]], -shortest, side="right"))
        groups.append(order[start:stop])
        start = stop
    return groups


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer: (blocks, Hkv, block_size, D) each, or (blocks, bytes) of `ops.scaled`.

    A head's part of a block lies in one piece, since a head is read on its own.

    Attributes:
        keys: The blocks of keys.
        values: The blocks of values.
        scaled_shape: (Hkv, block_size, D) of blocks of bytes.
    """

    keys: Tensor
    values: Tensor
    scaled_shape: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Hkv, block_size, D) of a block."""
        if self.scaled_shape is not None:
            return self.scaled_shape
        _, num_heads, block_size, head_dim = self.keys.shape
        return num_heads, block_size, head_dim

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Keep keys and values, (T, Hkv, D) each, in slots: (T,) int64, `block * block_size + place`."""
        size = self.shape[1]
        if self.scaled_shape is not None:
            torch.ops.tempa.rope_to_scaled_cache(k[:, :0], k, v, None, slots, self.keys, self.values, size)
            return
        blocks, places = slots // size, slots % size
        self.keys[blocks, :, places] = k
        self.values[blocks, :, places] = v

    def turn_and_write(
        self, slots: Tensor, q: Tensor, k: Tensor, v: Tensor, turns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn queries and keys by `turns`, as `rope` does, keep keys and values, return queries and keys."""
        turned: tuple[Tensor, Tensor]
        if self.scaled_shape is not None:
            turned = torch.ops.tempa.rope_to_scaled_cache(
                q, k, v, turns, slots, self.keys, self.values, self.shape[1]
            )
            return turned
        if rope_cuda.writes_to(self.keys, q, turns):
            turned = torch.ops.tempa.rope_to_cache(q, k, v, turns, slots, self.keys, self.values)
            return turned
        q, k = rope(q, turns), rope(k, turns)
        self.write(slots, k, v)
        return q, k


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: AttentionSpec,
    cache: LayerCache | None = None,
    turns: Tensor | None = None,
) -> Tensor:
    """`softmax(q k^T / sqrt(D)) v`, causal within each sequence (Vaswani et al., 2017, equation 1).

    Args:
        q: (T, H, D).
        k: (T, Hkv, D); query head h reads key head `h // (H // Hkv)`.
        v: (T, Hkv, D).
        spec: Which tokens belong together.
        cache: Where keys and values of this layer are kept, if the spec has slots.
        turns: Rotations that queries and keys are still to be turned by, see `rope`; None for none.

    Returns:
        (T, H, D)

    Raises:
        ValueError: If gradients are asked for through a cache.
    """
    if cache is not None and spec.slots is not None:
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            raise ValueError("a cache keeps no gradients; call the model under torch.inference_mode()")
        if turns is None:
            cache.write(spec.slots, k, v)
        else:
            q, k = cache.turn_and_write(spec.slots, q, k, v, turns)
        if spec.tables is not None:
            return _paged(q, spec, cache)
    elif turns is not None:
        q, k = rope(q, turns), rope(k, turns)
    return _packed(q, k, v, spec)


def _packed(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    if not spec.num_tokens:
        return torch.zeros_like(q)
    if cuda_tensors.has_kernels(q) and attention_kernels.is_supported(q.shape[-1], q.dtype):
        return _fused(q, k, v, spec)
    shapes, spread, collect = spec.buckets.shapes, spec.buckets.spread, spec.buckets.collect
    if spread is None or collect is None:
        ((count, length),) = shapes
        return _dense(q, k, v, count, length, spec.window)
    sizes = [count * length for count, length in shapes]
    qs, ks, vs = (_Spread.apply(x, spread, collect).split(sizes) for x in (q, k, v))
    parts = zip(qs, ks, vs, shapes, strict=True)
    out = torch.cat([_dense(q, k, v, count, length, spec.window) for q, k, v, (count, length) in parts])
    collected: Tensor = _Collect.apply(out, collect)
    return collected


def _fused(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    if len(q) != spec.num_tokens:
        raise ValueError(f"the spec is for {spec.num_tokens} tokens, got {len(q)} queries")
    left = None if spec.window is None else spec.window - 1
    bounds = spec.cu_seqlens
    out: Tensor = torch.ops.tempa.attention(q, k, v, bounds, bounds, None, None, None, left, 0)[0]
    return out


def _dense(q: Tensor, k: Tensor, v: Tensor, count: int, length: int, window: int | None) -> Tensor:
    """Attention of `count` sequences of one length. Right padding is exact: no earlier query sees it."""
    q, k, v = (x.view(count, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))  # (n, H, L, D)
    mask = None
    if window is not None and window < length:
        place = torch.arange(length, device=q.device)
        behind = place[:, None] - place
        mask = (behind >= 0) & (behind < window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).flatten(0, 1)


def _paged(q: Tensor, spec: AttentionSpec, cache: LayerCache) -> Tensor:
    assert spec.tables is not None
    assert spec.lengths is not None
    assert spec.starts is not None
    if q.device.type == "cpu" and q.dtype == torch.float32 == cache.keys.dtype and len(q):
        out = _core.paged_attention(
            q.contiguous().numpy(),
            cache.keys.numpy(),
            cache.values.numpy(),
            spec.tables.numpy(),
            spec.lengths.numpy(),
            spec.starts,
            block_size=spec.block_size,
            num_kv_heads=cache.shape[0],
            window=spec.window,
        )
        return torch.from_numpy(out)
    if paged_cuda.is_supported(q, cache):
        return paged_cuda.attend(q, spec, cache)
    return paged_by_gather(q, spec, cache)


def paged_by_gather(q: Tensor, spec: AttentionSpec, cache: LayerCache) -> Tensor:
    """Paged attention on any device: gather the blocks of each sequence, then mask what is behind its end."""
    out = torch.empty_like(q)
    for group in spec.groups:
        out[group.tokens] = _gathered(q[group.tokens], group, cache)
    return out


def _gathered(q: Tensor, group: PagedGroup, cache: LayerCache) -> Tensor:
    n, num_new = len(group.tables), group.mask.shape[2]
    heads, _, head_dim = cache.shape
    keys, values = (
        _blocks(pool, group.tables, cache.shape).to(q.dtype).transpose(1, 2).reshape(n, heads, -1, head_dim)
        for pool in (cache.keys, cache.values)
    )  # (n, Hkv, S, D)
    # The heads of a group read the same keys: they become more queries of one head.
    share = q.shape[1] // heads
    q = (
        q.view(n, num_new, heads, share, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    )  # (n, Hkv, share L, D)
    mask = group.mask if num_new == 1 else group.mask.repeat(1, 1, share, 1)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    out = out.view(n, heads, share, num_new, head_dim).permute(0, 3, 1, 2, 4)
    return out.reshape(n * num_new, heads * share, head_dim)


def _blocks(pool: Tensor, tables: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(n, blocks, Hkv, block_size, D) of a pool, with their scales if they have any."""
    if not scaled.is_scaled(pool.dtype):
        return pool[tables]
    chosen = pool.view(torch.int8)[tables.flatten()].view(pool.dtype)
    return scaled.unscaled(chosen, *shape).view(*tables.shape, *shape)


class _Spread(torch.autograd.Function):
    """Tokens to padded places. Each token has one real place, so the gradient is a gather too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spread: Tensor, collect: Tensor) -> Tensor:
        ctx.save_for_backward(collect)
        return x.index_select(0, spread)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """Padded places back to tokens; the gradient of a padded place is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, collect: Tensor) -> Tensor:
        ctx.save_for_backward(collect)
        ctx.num_places = len(x)
        return x.index_select(0, collect)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (collect,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_places, *grad.shape[1:]).index_copy_(0, collect, grad), None
