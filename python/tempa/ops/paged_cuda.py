"""`tempa::paged_attention`, operator behind `ops.attention` on CUDA caches; kernel in `cuda/paged.cu`.

The plan of a batch holds for all layers. Registered for CUDA, CPU and fake tensors; caches keep no gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempa.data.upload import upload
from tempa.ops import cuda_tensors, nvrtc, reference
from tempa.ops.paged_plan import ITEM_FIELDS, TILE, WARP_ROWS, plan
from tempa.ops.scaled import unscaled

if TYPE_CHECKING:
    from tempa.ops.attention import AttentionSpec, LayerCache

SOURCE = "paged.cu"
ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# Bytes with a float32 scale for each row, behind the rows of a block.
SCALED = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}
SCALE_BYTES = 4

# The same in paged.cu.
THREADS = 128
VECTOR = 4
CHUNK_BYTES = 16

# Two blocks of this much fit a multiprocessor of sm_80, each with 64 KiB on their way.
RING_BYTES = 81 << 10
MAX_SLOTS = 8
# More rows for a warp than 16 with heads wider than this do not fit the registers.
WIDE_HEAD = 128
# Registers of a multiprocessor let so many blocks reside.
MAX_RESIDENT = 3
# What the driver takes for itself of each block's shared memory.
RESERVED_BYTES = 1 << 10


@dataclass(frozen=True)
class Shape:
    """A variant of the kernel but for its rows; the names are the macros of `paged.cu` in lower case."""

    head_dim: int
    block_size: int
    group: int
    slots: int
    itemsize: int

    @classmethod
    def of(cls, head_dim: int, block_size: int, group: int, itemsize: int, *, shared_bytes: int) -> Shape:
        """The variant for a cache, on a device whose blocks may have so much shared memory.

        Raises:
            ValueError: If no variant fits.
        """
        chunk = CHUNK_BYTES // itemsize
        if head_dim % chunk or not 0 < head_dim <= 256 or group < 1 or block_size < 1:
            raise _error(
                f"head_dim must be a multiple of {chunk} up to 256, "
                f"got {head_dim} with {group} query heads a key head and blocks of {block_size}"
            )
        tile = cls(head_dim, block_size, group, 1, itemsize)._tile_bytes
        slots = min(MAX_SLOTS, max(4, RING_BYTES // tile), shared_bytes // tile)
        return cls(head_dim, block_size, group, slots, itemsize)

    @property
    def _width(self) -> int:
        pair = 2 * CHUNK_BYTES // self.itemsize
        return -(-self.head_dim // pair) * pair

    @property
    def _tile_bytes(self) -> int:
        num_scales = TILE if self.itemsize == 1 else 1
        return TILE * self._width * self.itemsize + num_scales * SCALE_BYTES

    @property
    def shared_bytes(self) -> int:
        """The ring, or what the warps put in its place at the end."""
        found = (THREADS // 32) * WARP_ROWS * (self._width + 8 + 2) * 4
        return -(-max(self.slots * self._tile_bytes, found) // CHUNK_BYTES) * CHUNK_BYTES

    @property
    def max_row_warps(self) -> int:
        """Warps of a block that may have rows of their own."""
        return 1 if self.head_dim > WIDE_HEAD else THREADS // 32

    def defines(
        self, dtype: torch.dtype, kept: torch.dtype, *, row_warps: int, softcap: bool, alibi: bool
    ) -> dict[str, str | int]:
        """The macros that `paged.cu` is compiled with."""
        return {
            "ELEMENT": ELEMENTS[dtype],
            "KEPT": SCALED.get(kept, ELEMENTS[dtype]),
            "HEAD_DIM": self.head_dim,
            "BLOCK_SIZE": self.block_size,
            "GROUP": self.group,
            "SLOTS": self.slots,
            "ROW_WARPS": row_warps,
            "SOFTCAP": int(softcap),
            "ALIBI": int(alibi),
        }


def attend_into(
    out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    starts: Tensor,
    items: Tensor,
    launches: Sequence[tuple[int, int, int]],
    *,
    block_size: int,
    num_kv_heads: int,
    window: int | None = None,
    sinks: int = 0,
    softcap: float | None = None,
    slopes: Tensor | None = None,
) -> None:
    """Write the attention of the new tokens to `out`; scores are scaled by 1 / sqrt(D).

    Args:
        out: (T, H, D) like q.
        q: (T, H, D) bfloat16 or float16.
        keys: (blocks, Hkv, block_size, D) like q, or (blocks, bytes) int8 or float8_e4m3fn: the rows of a
            block and then a float32 scale for each. Blocks may lie apart.
        values: As keys.
        tables: (n, width) int32, the blocks of each sequence, then anything.
        lengths: (n,) int64, tokens of each sequence, the new ones included.
        starts: (n + 1,) int64, where the new tokens of each sequence start.
        items: As in `Plan`, on the device.
        launches: As in `Plan`.
        block_size: Tokens per block.
        num_kv_heads: Key heads.
        window: How many tokens back a query sees, itself included; all when None.
        sinks: How many of the first tokens every query sees, whatever the window.
        softcap: Bound on the scores, or None.
        slopes: (H,) float32, what a score loses for each token of distance, or None.

    Raises:
        ValueError: If a tensor has another dtype, device, layout or alignment than that.
    """
    _check(out, q, keys, values, tables, lengths, starts, items, block_size, num_kv_heads, slopes)
    variant = _variant(q, keys, block_size, num_kv_heads)
    first = 0
    for row_warps, num_items, num_parts in launches:
        rows = WARP_ROWS * row_warps
        parts = q.new_empty(num_parts * num_kv_heads * rows * (q.shape[2] + VECTOR), dtype=torch.float32)
        nvrtc.launch(
            _kernel(
                variant, q.dtype, keys.dtype, row_warps, softcap is not None, slopes is not None, q.device
            ),
            *(out, q, keys, values, tables, lengths, starts, items[first : first + num_items]),
            parts,
            _tickets(num_parts * num_kv_heads, q.device, torch.cuda.current_stream(q.device).cuda_stream),
            slopes,
            *arguments(q, keys, values, tables, num_kv_heads, window, sinks, softcap),
            grid=num_items * num_kv_heads,
            block=THREADS,
            shared_bytes=variant.shared_bytes,
        )
        first += num_items


def arguments(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    num_kv_heads: int,
    window: int | None,
    sinks: int,
    softcap: float | None,
) -> tuple[Any, ...]:
    """The numbers that the kernel takes behind its pointers."""
    return (
        keys.stride(0),
        values.stride(0),
        tables.shape[1],
        num_kv_heads,
        2**31 - 1 if window is None else window,
        sinks,
        q.shape[2] ** -0.5,
        softcap or 0,
    )


def _check(
    out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    starts: Tensor,
    items: Tensor,
    block_size: int,
    num_kv_heads: int,
    slopes: Tensor | None,
) -> None:
    if q.dtype not in ELEMENTS or q.dim() != 3:
        raise _error(f"q must be (T, H, D) bfloat16 or float16, got {_said(q)}")
    if q.shape[1] % num_kv_heads:
        raise _error(f"{num_kv_heads} key heads do not divide {q.shape[1]} of q")
    per_head = block_size * q.shape[2]
    for name, pool in (("keys", keys), ("values", values)):
        rows = (num_kv_heads, block_size, q.shape[2])
        inner = (num_kv_heads * block_size * (q.shape[2] + SCALE_BYTES),) if pool.dtype in SCALED else rows
        strides = (1,) if pool.dtype in SCALED else (per_head, q.shape[2], 1)
        if pool.dtype not in (q.dtype, *SCALED) or pool.dtype != keys.dtype or pool.shape[1:] != inner:
            raise _error(
                f"{name} must be (blocks, {', '.join(map(str, inner))}) {keys.dtype} "
                f"for q of {q.dtype}, got {_said(pool)}"
            )
        if pool.stride()[1:] != strides or pool.stride(0) * pool.itemsize % CHUNK_BYTES:
            raise _error(
                f"blocks of {name} must be contiguous and {CHUNK_BYTES} bytes aligned, "
                f"got strides {pool.stride()}"
            )
    for name, tensor, dtype, dims in (
        ("out", out, q.dtype, q.shape),
        ("q", q, q.dtype, q.shape),
        ("tables", tables, torch.int32, (len(lengths), *tables.shape[1:])),
        ("lengths", lengths, torch.int64, lengths.shape[:1]),
        ("starts", starts, torch.int64, (len(lengths) + 1,)),
        ("items", items, torch.int32, (len(items), ITEM_FIELDS)),
        ("slopes", slopes, torch.float32, q.shape[1:2]),
    ):
        if tensor is not None and (
            tensor.dtype != dtype or tensor.shape != dims or not tensor.is_contiguous()
        ):
            raise _error(f"{name} must be {tuple(dims)} {dtype}, contiguous, got {_said(tensor)}")
    for tensor in (out, q, keys, values, tables, lengths, starts, items, slopes):
        if tensor is not None and tensor.device != q.device:
            raise _error(f"q is on {q.device}, got {_said(tensor)}")
    if any(tensor.data_ptr() % CHUNK_BYTES for tensor in (out, q, keys, values)):
        raise _error(f"q, keys, values and out must start at {CHUNK_BYTES} bytes")


def _error(message: str) -> ValueError:
    return ValueError(f"paged_attention on CUDA: {message}")


def _said(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def _variant(q: Tensor, keys: Tensor, block_size: int, num_kv_heads: int) -> Shape:
    shared = torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin
    return _shape(q.shape[2], block_size, q.shape[1] // num_kv_heads, keys.itemsize, shared)


@functools.cache
def _shape(head_dim: int, block_size: int, group: int, itemsize: int, shared_bytes: int) -> Shape:
    return Shape.of(head_dim, block_size, group, itemsize, shared_bytes=shared_bytes)


@functools.cache
def _kernel(
    variant: Shape,
    dtype: torch.dtype,
    kept: torch.dtype,
    row_warps: int,
    softcap: bool,
    alibi: bool,
    device: torch.device,
) -> nvrtc.Kernel:
    defines = variant.defines(dtype, kept, row_warps=row_warps, softcap=softcap, alibi=alibi)
    return nvrtc.load(SOURCE, "paged_attention", device, defines, shared_bytes=variant.shared_bytes)


_zeros: dict[tuple[torch.device, int], Tensor] = {}


def _tickets(count: int, device: torch.device, stream: int) -> Tensor:
    """Zeros, which every launch leaves as it found them: launches of one stream may share them.

    A captured graph makes its own each time it runs: it may run on any stream, and live longer than these.
    """
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    held = _zeros.get((device, stream))
    if held is None or len(held) < count:
        held = torch.zeros(max(count, 4096), dtype=torch.int32, device=device)
        _zeros[device, stream] = held
    return held


def resident_blocks(device: torch.device, variant: Shape) -> int:
    """Blocks that a device runs at once."""
    properties = torch.cuda.get_device_properties(device)
    fit = properties.shared_memory_per_multiprocessor // (variant.shared_bytes + RESERVED_BYTES)
    return properties.multi_processor_count * min(max(fit, 1), MAX_RESIDENT)


def is_supported(q: Tensor, cache: LayerCache) -> bool:
    """Whether the kernel takes these; what it does not take is gathered by torch."""
    return (
        cuda_tensors.has_kernels(q)
        and q.dtype in ELEMENTS
        and (cache.keys.dtype == q.dtype or cache.keys.dtype in SCALED)
        and q.shape[2] <= 256
        and q.shape[2] % (CHUNK_BYTES // cache.keys.itemsize) == 0
    )


def attend(q: Tensor, spec: AttentionSpec, cache: LayerCache) -> Tensor:
    """Attention of the new tokens of `spec` to a cache for which `is_supported` is true."""
    assert spec.tables is not None
    assert spec.lengths is not None
    num_kv_heads = cache.shape[0]
    key = (q.shape[1], num_kv_heads, q.shape[2])
    if key not in spec.plans:
        spec.plans[key] = _plan_on_device(q, spec, cache)
    starts, items, launches = spec.plans[key]
    out: Tensor = torch.ops.tempa.paged_attention(
        *(q, cache.keys, cache.values, spec.tables, spec.lengths, starts, items, launches),
        *(spec.block_size, num_kv_heads, spec.window, 0, None, None),
    )
    return out


def _plan_on_device(q: Tensor, spec: AttentionSpec, cache: LayerCache) -> tuple[Tensor, Tensor, list[int]]:
    assert spec.host_lengths is not None
    assert spec.starts is not None
    num_kv_heads = cache.shape[0]
    variant = _variant(q, cache.keys, spec.block_size, num_kv_heads)
    made = plan(
        spec.host_lengths,
        spec.starts,
        group=q.shape[1] // num_kv_heads,
        num_kv_heads=num_kv_heads,
        resident=resident_blocks(q.device, variant),
        max_row_warps=variant.max_row_warps,
        window=spec.window,
    )
    starts, items = upload([spec.starts, made.items], q.device)
    return starts, items, [number for launch in made.launches for number in launch]


def _cuda(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    starts: Tensor,
    items: Tensor,
    launches: list[int],
    block_size: int,
    num_kv_heads: int,
    window: int | None,
    sinks: int,
    softcap: float | None,
    slopes: Tensor | None,
) -> Tensor:
    q = q.contiguous()
    out = torch.empty_like(q)
    attend_into(
        *(out, q, keys, values, tables.contiguous(), lengths.contiguous(), starts, items),
        [(launches[i], launches[i + 1], launches[i + 2]) for i in range(0, len(launches), 3)],
        block_size=block_size,
        num_kv_heads=num_kv_heads,
        window=window,
        sinks=sinks,
        softcap=softcap,
        slopes=slopes,
    )
    return out


def _cpu(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    starts: Tensor,
    items: Tensor,
    launches: list[int],
    block_size: int,
    num_kv_heads: int,
    window: int | None,
    sinks: int,
    softcap: float | None,
    slopes: Tensor | None,
) -> Tensor:
    del items, launches
    keys, values = (unscaled(pool, num_kv_heads, block_size, q.shape[2]) for pool in (keys, values))
    out = reference.paged_attention(
        *(q.float(), keys, values, tables, lengths, starts),
        window=window,
        sinks=sinks,
        softcap=softcap,
        slopes=slopes,
    )
    return out.to(q.dtype)


def _fake(q: Tensor, *others: Any) -> Tensor:
    del others
    return q.new_empty(q.shape)


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "paged_attention(Tensor q, Tensor keys, Tensor values, Tensor tables, Tensor lengths, Tensor starts, "
    "Tensor items, int[] launches, int block_size, int num_kv_heads, int? window, int sinks, float? softcap, "
    "Tensor? slopes) -> Tensor"
)
_library.impl("paged_attention", _cuda, "CUDA")
_library.impl("paged_attention", _cpu, "CPU")
torch.library.register_fake("tempa::paged_attention", _fake, lib=_library)
