"""Attention of others, as functions of (T, H, D) tensors like ours: views of the same memory, no copies."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.rig import Rig

if TYPE_CHECKING:
    from gpu.attention import Shape

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Way = Callable[[Rig, "Shape"], Attend]


def available_to(shape: Shape) -> dict[str, Way]:
    """Peers that can solve this shape at all; the first is what ours is checked against."""
    flash = _sdpa(SDPBackend.FLASH_ATTENTION)
    if shape.is_even:
        names: dict[str, Way] = {"torch FLASH": flash, "torch cuDNN": _sdpa(SDPBackend.CUDNN_ATTENTION)}
    else:
        names = {"torch FLASH, a call a document": _each}
    return {
        **names,
        "FlexAttention": _flex,
        "torch varlen_attn": _varlen,
        "FlashAttention 3": _flash_attn("flash_attn_interface"),
        "FlashAttention 4": _flash_attn("flash_attn.cute"),
        "FlashInfer": _flashinfer,
    }


def bounds(rig: Rig, shape: Shape) -> Tensor:
    """(n + 1,) int32, where sequences start."""
    ends = itertools.accumulate(shape.lengths, initial=0)
    return torch.tensor(list(ends), dtype=torch.int32, device=rig.device)


def _split(x: Tensor, shape: Shape) -> Tensor:
    """(T, H, D) to (B, H, L, D) of sequences of one length."""
    return x.view(len(shape.lengths), shape.lengths[0], *x.shape[1:]).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _sdpa(backend: SDPBackend) -> Way:
    def way(_: Rig, shape: Shape) -> Attend:
        grouped = shape.num_heads != shape.num_key_heads

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (_split(x, shape) for x in (q, k, v))
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal, enable_gqa=grouped)
            return _joined(out)

        return attend

    return way


def _each(_: Rig, shape: Shape) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(*(x.split(list(shape.lengths)) for x in (q, k, v)), strict=True)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            outs = [
                F.scaled_dot_product_attention(
                    *(x.transpose(0, 1)[None] for x in part),
                    is_causal=shape.causal,
                    enable_gqa=shape.num_heads != shape.num_key_heads,
                )[0].transpose(0, 1)
                for part in parts
            ]
        return torch.cat(outs)

    return attend


def _flex(rig: Rig, shape: Shape) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    document = torch.repeat_interleave(
        torch.arange(len(shape.lengths), device=rig.device),
        torch.tensor(shape.lengths, device=rig.device),
    )

    def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del b, h
        inside = query >= key if shape.causal else query >= 0
        return inside if shape.is_even else inside & (document[query] == document[key])

    length = shape.lengths[0] if shape.is_even else shape.num_tokens
    mask = None
    if shape.causal or not shape.is_even:
        mask = create_block_mask(seen, None, None, length, length, device=str(rig.device))
    compiled = rig.compiled(flex_attention, repeats_backward=True)
    grouped = shape.num_heads != shape.num_key_heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if shape.is_even:
            q, k, v = (_split(x, shape) for x in (q, k, v))
        else:
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return _joined(compiled(q, k, v, block_mask=mask, enable_gqa=grouped))

    return attend


def _varlen(rig: Rig, shape: Shape) -> Attend:
    varlen_attn: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    # The way to ask for causality and for groups has changed between releases.
    takes = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {}
    if shape.causal:
        options |= {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
    if shape.num_heads != shape.num_key_heads and "enable_gqa" in takes:
        options["enable_gqa"] = True
    starts, longest = bounds(rig, shape), max(shape.lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = varlen_attn(q, k, v, starts, starts, longest, longest, **options)
        return out

    return attend


def _flash_attn(module: str) -> Way:
    """FlashAttention 3 and 4 have the same function in different modules."""

    def way(rig: Rig, shape: Shape) -> Attend:
        function: Any = importlib.import_module(module).flash_attn_varlen_func
        takes = inspect.signature(function).parameters
        starts, longest = bounds(rig, shape), max(shape.lengths)
        given = {
            "cu_seqlens_q": starts,
            "cu_seqlens_k": starts,
            "max_seqlen_q": longest,
            "max_seqlen_k": longest,
            "causal": shape.causal,
        }
        options = {name: value for name, value in given.items() if name in takes}

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = function(q, k, v, **options)
            result: Tensor = out if isinstance(out, Tensor) else out[0]
            return result

        return attend

    return way


def _flashinfer(rig: Rig, shape: Shape) -> Attend:
    flashinfer: Any = importlib.import_module("flashinfer")
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=rig.device)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
    starts = bounds(rig, shape)
    heads = (shape.num_heads, shape.num_key_heads, shape.head_dim)
    wrapper.plan(starts, starts, *heads, causal=shape.causal, q_data_type=torch.bfloat16)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = wrapper.run(q, k, v)
        return out

    return attend
