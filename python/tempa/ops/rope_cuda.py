"""`tempa::rope` and `tempa::rope_to_cache`, rotary positions on CUDA; kernels in `cuda/rope.cu`.

Registered for CUDA, CPU, fake tensors and, without the cache, autograd: the gradient turns back.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tempa.ops import cuda_tensors, nvrtc
from tempa.ops.cuda_tensors import ELEMENTS, PACK_BYTES, check, check_same
from tempa.ops.rope import turned

SOURCE = "rope.cu"
THREADS = 256
# Heads that a thread turns by the rotations it has loaded.
HEADS = 4
# The kernels count packs and slots in 32 bits.
MAX_PACKS = 1 << 31


def defines(dtype: torch.dtype, head_dim: int, vector: int) -> dict[str, str | int]:
    """The macros that `rope.cu` is compiled with."""
    shape = {"VECTOR": vector, "HEAD_PACKS": head_dim // vector, "HEADS": HEADS, "THREADS": THREADS}
    return {"ELEMENT": ELEMENTS[dtype], **shape}


def writes_to(keys: Tensor, q: Tensor, turns: Tensor) -> bool:
    """Whether `rope_to_cache` takes these keys of a cache, queries and rotations."""
    return (
        cuda_tensors.has_kernels(q)
        and q.dtype in ELEMENTS
        and keys.dtype == q.dtype
        and turns.dtype == torch.complex64
    )


def turn_into(y: Tensor, x: Tensor, rotations: Tensor, *, inverse: bool = False) -> None:
    """Write the turned pairs of x to y.

    Args:
        y: (T, H, D), contiguous.
        x: (T, H, D); tokens and heads may have gaps between them.
        rotations: (T, 1, D/2) complex64 from `ops.rotations`.
        inverse: Turn back, as the gradient does.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    vector = vector_of(x, (x,), (y,), rotations)
    T, H, D = x.shape
    blocks = _num_blocks(T, H, D // vector)
    if blocks:
        nvrtc.launch(
            _kernel("rope", x.dtype, D, vector, x.device),
            *(y, x, rotations),
            T,
            H,
            *strides_of(x),
            -1.0 if inverse else 1.0,
            grid=blocks,
            block=THREADS,
        )


def turn_to_cache(
    q_out: Tensor,
    k_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotations: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> None:
    """Write turned queries and keys, and keep turned keys and values in a cache.

    Args:
        q_out: (T, H, D), contiguous.
        k_out: (T, Hkv, D), contiguous.
        q: (T, H, D); here and in k and v, tokens and heads may have gaps between them.
        k: (T, Hkv, D).
        v: (T, Hkv, D).
        rotations: (T, 1, D/2) complex64 from `ops.rotations`.
        slots: (T,) int64, `block * block_size + place`; what is not in the cache, such as -1, is not kept.
        keys: (blocks, Hkv, block_size, D), contiguous.
        values: As keys.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    vector = vector_of(q, (q, k, v), (q_out, k_out, keys, values), rotations)
    (T, H, D), (_, heads, block_size, _) = q.shape, keys.shape
    check_same("rope", q, slots, torch.int64)
    if slots.shape != (T,) or not slots.is_contiguous():
        raise ValueError(f"rope on CUDA: expected {T} slots in one piece, got shape {tuple(slots.shape)}")
    if k.shape != (T, heads, D) or v.shape != k.shape or values.shape != keys.shape:
        shapes = [tuple(tensor.shape) for tensor in (q, k, v, keys, values)]
        raise ValueError(f"rope on CUDA: queries, keys, values and cache do not fit: {shapes}")
    if len(keys) * block_size > MAX_PACKS:
        raise ValueError(f"rope on CUDA: {len(keys)} blocks of {block_size} slots exceed {MAX_PACKS} slots")
    blocks = _num_blocks(T, H + 2 * heads, D // vector)
    if blocks:
        nvrtc.launch(
            _kernel("rope_to_cache", q.dtype, D, vector, q.device),
            *(q_out, k_out, keys, values, q, k, v, rotations, slots),
            T,
            H,
            heads,
            *(stride for tensor in (q, k, v) for stride in strides_of(tensor)),
            len(keys) * block_size,
            block_size,
            grid=blocks,
            block=THREADS,
        )


def vector_of(
    x: Tensor, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], rotations: Tensor | None
) -> int:
    """Elements a pack: 16 bytes where all heads consist of such packs, else one pair.

    Raises:
        ValueError: If heads, output and rotations do not fit, or cannot be read in pairs.
    """
    check("rope", outputs[0], *outputs[1:])
    for tensor in inputs:
        check_same("rope", outputs[0], tensor, outputs[0].dtype)
        if tensor.ndim != 3 or (tensor.stride(2) != 1 and tensor.shape[2] > 1):
            raise ValueError(
                f"rope on CUDA: expected (T, H, D) with heads in one piece, got shape {tuple(tensor.shape)} "
                f"and strides {tensor.stride()}"
            )
    D = x.shape[2]
    if (
        outputs[0].shape != x.shape
        or D % 2
        or (rotations is not None and rotations.shape != (len(x), 1, D // 2))
    ):
        shapes = [tuple(tensor.shape) for tensor in (x, outputs[0], rotations) if tensor is not None]
        raise ValueError(f"rope on CUDA: heads, output and rotations do not fit: {shapes}")
    if rotations is not None:
        check_same("rope", x, rotations, torch.complex64)
        if not rotations.is_contiguous():
            raise ValueError("rope on CUDA: the rotations are not contiguous")
    for vector in (PACK_BYTES // x.dtype.itemsize, 2):
        fits = all(
            tensor.data_ptr() % (vector * x.dtype.itemsize) == 0
            and all(stride % vector == 0 for stride in tensor.stride()[:-1])
            for tensor in (*inputs, *outputs)
        )
        if fits and (rotations is None or rotations.data_ptr() % min(PACK_BYTES, 4 * vector) == 0):
            return vector
    raise ValueError("rope on CUDA: a pair of a tensor starts at an odd element; copy the tensor")


def _num_blocks(num_tokens: int, num_heads: int, head_packs: int) -> int:
    num_shares = num_tokens * -(-num_heads // HEADS) * head_packs
    if num_shares > MAX_PACKS:
        raise ValueError(f"rope on CUDA: {num_tokens} tokens of {num_heads} heads exceed {MAX_PACKS} packs")
    return -(-num_shares // THREADS)


def strides_of(x: Tensor) -> tuple[int, int]:
    """Elements from one token to the next, and from one head to the next."""
    return x.stride(0), x.stride(1)


@functools.cache
def _kernel(entry: str, dtype: torch.dtype, head_dim: int, vector: int, device: torch.device) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, entry, device, defines(dtype, head_dim, vector))


def readable(x: Tensor) -> Tensor:
    """A tensor whose pairs can be loaded whole: x, or a copy."""
    pair_bytes = 2 * x.dtype.itemsize
    starts_even = x.data_ptr() % pair_bytes == 0 and all(stride % 2 == 0 for stride in x.stride()[:-1])
    return x if starts_even and x.stride(-1) == 1 else x.clone(memory_format=torch.contiguous_format)


def _rope_cuda(x: Tensor, rotations: Tensor, inverse: bool) -> Tensor:
    y = x.new_empty(x.shape)
    turn_into(y, readable(x), rotations.contiguous(), inverse=inverse)
    return y


def _rope_cpu(x: Tensor, rotations: Tensor, inverse: bool) -> Tensor:
    return turned(x.contiguous(), rotations.conj() if inverse else rotations)


def _rope_fake(x: Tensor, rotations: Tensor, inverse: bool) -> Tensor:
    del rotations, inverse
    return x.new_empty(x.shape)


def _to_cache_cuda(
    q: Tensor, k: Tensor, v: Tensor, rotations: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    q_out, k_out = q.new_empty(q.shape), k.new_empty(k.shape)
    q, k, v = readable(q), readable(k), readable(v)
    turn_to_cache(q_out, k_out, q, k, v, rotations.contiguous(), slots.contiguous(), keys, values)
    return q_out, k_out


def _to_cache_cpu(
    q: Tensor, k: Tensor, v: Tensor, rotations: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    q_out, k_out = _rope_cpu(q, rotations, False), _rope_cpu(k, rotations, False)
    size = keys.shape[2]
    is_kept = (slots >= 0) & (slots < len(keys) * size)
    blocks, places = slots[is_kept] // size, slots[is_kept] % size
    keys[blocks, :, places] = k_out[is_kept]
    values[blocks, :, places] = v[is_kept]
    return q_out, k_out


def _to_cache_fake(
    q: Tensor, k: Tensor, v: Tensor, rotations: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    del v, rotations, slots, keys, values
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    del output
    _, rotations, ctx.inverse = inputs
    ctx.save_for_backward(rotations)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    (rotations,) = ctx.saved_tensors
    return torch.ops.tempa.rope(dy, rotations, not ctx.inverse), None, None


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rope(Tensor x, Tensor rotations, bool inverse) -> Tensor")
_library.define(
    "rope_to_cache(Tensor q, Tensor k, Tensor v, Tensor rotations, Tensor slots, Tensor(a!) keys,"
    " Tensor(b!) values) -> (Tensor, Tensor)"
)
_library.impl("rope", _rope_cuda, "CUDA")
_library.impl("rope", _rope_cpu, "CPU")
_library.impl("rope_to_cache", _to_cache_cuda, "CUDA")
_library.impl("rope_to_cache", _to_cache_cpu, "CPU")
torch.library.register_fake("tempa::rope", _rope_fake, lib=_library)
torch.library.register_fake("tempa::rope_to_cache", _to_cache_fake, lib=_library)
torch.library.register_autograd("tempa::rope", _gradients, setup_context=_setup_context, lib=_library)
