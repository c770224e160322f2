"""How the kernels of `cuda/attention*.cu` are compiled and launched for a batch, and what they accept.

A `Problem` checks its tensors on any device and describes each launch as a `Call`, so tests run the same
calls by the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tempa._core import TempaError
from tempa.ops import attention_hopper
from tempa.ops.calls import SMALLEST, SMALLEST_SHARED_BYTES, Call, Target

ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
MAX_HEAD_DIM = 256
# What one thread moves at a time, and only from addresses that are a multiple of it.
CHUNK_BYTES = 16
CHUNK = 8
# Places of tokens, and sums of one with a window, are 32 bits wide.
MAX_TOKENS = 2**29
WHOLE = 2**30


@dataclass(frozen=True)
class Shape:
    """How a block works; the names are the macros of `attention.cuh` in lower case.

    Attributes:
        warps: Warps of a block.
        tiles: Tiles of 16 rows that a warp has.
        step: Rows of the other side that a block takes at a time.
    """

    warps: int
    tiles: int
    step: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.warps * self.tiles * 16

    def macros(self) -> dict[str, int]:
        """The macros that belong to the shape."""
        return {name.upper(): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Kernel:
    """An entry point, and the shapes it is compiled in.

    Attributes:
        source: File in `cuda/`.
        entry: Name of the function.
        row_tensors: Tiles of a block's rows in shared memory.
        step_tensors: Tiles of the other side.
        step_bytes: What a block keeps of each row of the other side besides.
        shapes: For head dimensions up to each key, the shapes to choose from: the first that fits the device.
    """

    source: str
    entry: str
    row_tensors: int
    step_tensors: int
    step_bytes: int
    shapes: dict[int, tuple[Shape, ...]]

    def shared_bytes(self, shape: Shape, head_dim: int) -> int:
        """Dynamic shared memory of a block."""
        grain = 16 if head_dim <= 128 else 32
        pitch = (-(-head_dim // grain) * grain + CHUNK) * 2
        rows = self.row_tensors * shape.rows + self.step_tensors * shape.step
        return rows * pitch + shape.step * self.step_bytes

    def shape(self, head_dim: int, shared_limit: int = SMALLEST_SHARED_BYTES) -> Shape:
        """The shape for heads of `head_dim` elements on a device with so much shared memory for a block."""
        shapes = next(shapes for most, shapes in self.shapes.items() if head_dim <= most)
        for shape in shapes:
            if self.shared_bytes(shape, head_dim) <= shared_limit:
                return shape
        raise TempaError(f"attention on CUDA: {shared_limit} bytes of shared memory for a block are too few")


# The largest that need no spills on any architecture and leave room for two blocks a multiprocessor.
FORWARD = Kernel(
    "attention_forward.cu",
    "attention_forward",
    *(1, 2, 0),
    {64: (Shape(4, 2, 64),), 128: (Shape(4, 2, 48),), 256: (Shape(4, 1, 64),)},
)
BACKWARD_QUERIES = Kernel(
    "attention_backward_queries.cu",
    "attention_backward_queries",
    *(2, 4, 0),
    {64: (Shape(4, 2, 32),), 128: (Shape(4, 1, 32),), 256: (Shape(4, 1, 32), Shape(4, 1, 16))},
)
BACKWARD_KEYS = Kernel(
    "attention_backward_keys.cu",
    "attention_backward_keys",
    *(2, 4, 16),
    {64: (Shape(4, 1, 64),), 128: (Shape(4, 1, 32),), 256: (Shape(4, 1, 32), Shape(2, 1, 16))},
)
KERNELS = (FORWARD, BACKWARD_QUERIES, BACKWARD_KEYS)
BACKWARD_ROWS = "attention_backward_rows"  # in the source of BACKWARD_QUERIES, and with its shape
ROWS_BLOCKS = 4096


def defines(
    shape: Shape | attention_hopper.Shape,
    head_dim: int,
    dtype: torch.dtype,
    *,
    has_softcap: bool = False,
    has_alibi: bool = False,
) -> dict[str, str | int]:
    """The macros that a kernel is compiled with."""
    features = {"SOFTCAP": int(has_softcap), "ALIBI": int(has_alibi)}
    return {"ELEMENT": ELEMENTS[dtype], "HEAD_DIM": head_dim, **features, **shape.macros()}


@dataclass(frozen=True)
class Problem:
    """What is attended to, checked once; the tensors may be on any device.

    Attributes:
        q: (Tq, H, D) bfloat16 or float16.
        k: (Tk, Hkv, D); query head h reads key head `h // (H // Hkv)`.
        v: (Tk, Hkv, D).
        cu_seqlens_q: (n + 1,) int32, where the queries of each sequence start, ascending from 0 to Tq.
        cu_seqlens_k: (n + 1,) int32, the same for keys.
        alibi_slopes: (H,) float32: a score falls by the slope for each place between query and key.
        sinks: (H,) float32: one more score of each head, without a value.
        scale: Factor of products, `D ** -0.5` when None.
        left: Keys before its own place that a query sees; all when None.
        right: Keys behind its own place that a query sees: 0 is causal, None is all.
        softcap: Bound of scores, by tanh; none when 0.

    Raises:
        ValueError: If a tensor has a shape, dtype, device or layout that the kernels do not take.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    scale: float | None = None
    left: int | None = None
    right: int | None = None
    softcap: float = 0.0

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        if q.dtype not in ELEMENTS:
            raise ValueError(f"attention on CUDA: bfloat16 or float16 is needed, got {q.dtype}")
        if any(x.dim() != 3 for x in (q, k, v)) or k.shape != v.shape or q.shape[2] != k.shape[2]:
            shapes = [tuple(x.shape) for x in (q, k, v)]
            raise ValueError(f"attention on CUDA: (Tq, H, D) and twice (Tk, Hkv, D) are needed, got {shapes}")
        if not 0 < q.shape[2] <= MAX_HEAD_DIM or q.shape[2] % CHUNK:
            raise ValueError(
                f"attention on CUDA: heads of a multiple of {CHUNK} up to {MAX_HEAD_DIM} elements are "
                f"needed, got {q.shape[2]}"
            )
        if not k.shape[1] or q.shape[1] % k.shape[1]:
            raise ValueError(
                f"attention on CUDA: {k.shape[1]} key heads do not divide {q.shape[1]} query heads"
            )
        for name, x in (("q", q), ("k", k), ("v", v)):
            self._check(name, x, q.dtype)
            if not is_readable(x):
                raise ValueError(
                    f"attention on CUDA: {name} must start at a multiple of {CHUNK_BYTES} bytes and have "
                    f"strides that are multiples of {CHUNK} elements, the last 1; got {x.stride()} at "
                    f"{x.data_ptr():#x}"
                )
            if len(x) > MAX_TOKENS:
                raise ValueError(f"attention on CUDA: {len(x)} tokens exceed {MAX_TOKENS}")
        for name, bounds in (("cu_seqlens_q", self.cu_seqlens_q), ("cu_seqlens_k", self.cu_seqlens_k)):
            self._check(name, bounds, torch.int32)
            if bounds.dim() != 1 or not len(bounds) or len(bounds) != len(self.cu_seqlens_q):
                raise ValueError(
                    "attention on CUDA: cu_seqlens_q and cu_seqlens_k need the same length, at least 1, got "
                    f"{tuple(self.cu_seqlens_q.shape)} and {tuple(self.cu_seqlens_k.shape)}"
                )
        for name, per_head in (("alibi_slopes", self.alibi_slopes), ("sinks", self.sinks)):
            if per_head is not None:
                self._check(name, per_head, torch.float32)
                if per_head.shape != q.shape[1:2]:
                    raise ValueError(
                        f"attention on CUDA: {name} must be ({q.shape[1]},), got {tuple(per_head.shape)}"
                    )
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"attention on CUDA: scale must be positive, got {self.scale}")
        if not self.softcap >= 0:
            raise ValueError(f"attention on CUDA: softcap must be 0 or positive, got {self.softcap}")
        for name, reach in (("left", self.left), ("right", self.right)):
            if reach is not None and reach < 0:
                raise ValueError(f"attention on CUDA: {name} must be 0 or positive, got {reach}")

    def _check(self, name: str, x: Tensor, dtype: torch.dtype) -> None:
        if x.dtype != dtype or x.device != self.q.device:
            raise ValueError(
                f"attention on CUDA: {name} must be {dtype} on {self.q.device}, got {x.dtype} on {x.device}"
            )
        if x.dim() != 3 and not x.is_contiguous():
            raise ValueError(f"attention on CUDA: {name} is not contiguous")

    def forward(self, out: Tensor, lse: Tensor, *, target: Target = SMALLEST) -> list[Call]:
        """Write the result to out (Tq, H, D) and the logarithms of sums to lse (H, Tq) float32."""
        self._check_result("out", out, self.q.shape, self.q.dtype)
        self._check_result("lse", lse, self._row_shape, torch.float32)
        if not len(self.q):
            return []
        hopper = attention_hopper.FORWARD
        if shape := self._hopper_shape(hopper, target):
            boxes = ((self.q, shape.rows), (self.k, shape.step), (self.v, shape.step))
            per_head, grid_of = (self.alibi_slopes, self.sinks), self.q.shape[:2]
            return [self._hopper_call(hopper, shape, (out, lse), boxes, per_head, grid_of, grid_of, target)]
        tensors = (out, lse, *self._inputs, self.sinks)
        return [self._call(FORWARD, tensors, (len(self.q),), self.q.shape[:2], target)]

    def backward(
        self,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        rows: Tensor,
        out: Tensor,
        lse: Tensor,
        dout: Tensor,
        dlse: Tensor | None,
        *,
        target: Target = SMALLEST,
    ) -> list[Call]:
        """Write the gradients of q, k and v to dq, dk and dv.

        Args:
            dq: (Tq, H, D).
            dk: (Tk, Hkv, D).
            dv: (Tk, Hkv, D).
            rows: (H, Tq, 2) float32, gets each row's lse / ln 2 and dout . out - dlse.
            out: As `forward` wrote it.
            lse: As `forward` wrote it.
            dout: (Tq, H, D), the gradient of out.
            dlse: (H, Tq) float32, the gradient of lse, if there is one.
            target: Where it will run.
        """
        dtype = self.q.dtype
        for name, x in (("dq", dq), ("out", out), ("dout", dout)):
            self._check_result(name, x, self.q.shape, dtype)
        for name, x in (("dk", dk), ("dv", dv)):
            self._check_result(name, x, self.k.shape, dtype)
        self._check_result("lse", lse, self._row_shape, torch.float32)
        if dlse is not None:
            self._check_result("dlse", dlse, self._row_shape, torch.float32)
        self._check_result("rows", rows, (*self._row_shape, 2), torch.float32)
        calls = []
        if len(self.q):
            shape = BACKWARD_QUERIES.shape(self.q.shape[2], target.shared_limit)
            rows_call = Call(
                BACKWARD_QUERIES.source,
                BACKWARD_ROWS,
                (rows, out, dout, lse, dlse, len(self.q), self.q.shape[1]),
                (min(-(-self.q.shape[0] * self.q.shape[1] // 4), ROWS_BLOCKS), 1, 1),
                shape.warps * 32,
                0,
                tuple(self._defines(shape).items()),
            )
            calls = [rows_call, self._queries_call(dq, rows, dout, target)]
        if len(self.k):
            calls.append(self._keys_call(dk, dv, rows, dout, target))
        return calls

    def _queries_call(self, dq: Tensor, rows: Tensor, dout: Tensor, target: Target) -> Call:
        grid_of = self.q.shape[:2]
        hopper = attention_hopper.BACKWARD_QUERIES
        if shape := self._hopper_shape(hopper, target):
            boxes = ((dout, shape.rows), (self.q, shape.rows), (self.k, shape.step), (self.v, shape.step))
            per_head = (self.alibi_slopes,)
            return self._hopper_call(hopper, shape, (dq, rows), boxes, per_head, grid_of, grid_of, target)
        return self._call(BACKWARD_QUERIES, (dq, rows, dout, *self._inputs), grid_of[:1], grid_of, target)

    def _keys_call(self, dk: Tensor, dv: Tensor, rows: Tensor, dout: Tensor, target: Target) -> Call:
        grid_of = self.k.shape[:2]
        hopper = attention_hopper.BACKWARD_KEYS
        if shape := self._hopper_shape(hopper, target):
            boxes = ((dout, shape.step), (self.q, shape.step), (self.k, shape.rows), (self.v, shape.rows))
            sizes, per_head = (len(self.q), *grid_of), (self.alibi_slopes,)
            return self._hopper_call(hopper, shape, (dk, dv, rows), boxes, per_head, sizes, grid_of, target)
        sizes = (len(self.q), len(self.k))
        return self._call(BACKWARD_KEYS, (dk, dv, rows, dout, *self._inputs), sizes, grid_of, target)

    @property
    def _inputs(self) -> tuple[Tensor | None, ...]:
        return self.q, self.k, self.v, self.cu_seqlens_q, self.cu_seqlens_k, self.alibi_slopes

    @property
    def _row_shape(self) -> tuple[int, int]:
        return self.q.shape[1], self.q.shape[0]

    def _check_result(self, name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._check(name, x, dtype)
        if tuple(x.shape) != tuple(shape) or not x.is_contiguous() or x.data_ptr() % CHUNK_BYTES:
            raise ValueError(
                f"attention on CUDA: {name} must be {tuple(shape)}, contiguous and start at a multiple of "
                f"{CHUNK_BYTES} bytes, got {tuple(x.shape)} with strides {x.stride()} at {x.data_ptr():#x}"
            )

    def _defines(self, shape: Shape | attention_hopper.Shape) -> dict[str, str | int]:
        has_alibi = self.alibi_slopes is not None
        return defines(
            shape, self.q.shape[2], self.q.dtype, has_softcap=self.softcap > 0, has_alibi=has_alibi
        )

    def _call(
        self,
        kernel: Kernel,
        tensors: tuple[Tensor | None, ...],
        sizes: tuple[int, ...],
        grid_of: tuple[int, ...],
        target: Target,
    ) -> Call:
        """One block for each tile of (tokens, heads) = `grid_of`; some have no rows (`sequence_of`)."""
        head_dim, num_sequences = self.q.shape[2], len(self.cu_seqlens_q) - 1
        shape = kernel.shape(head_dim, target.shared_limit)
        strides = [stride for x in (self.q, self.k, self.v) for stride in _strides(x)]
        integers = [num_sequences, *sizes, self.q.shape[1] // self.k.shape[1], *strides]
        slices = 2 if kernel is BACKWARD_KEYS and head_dim > 128 else 1
        return Call(
            kernel.source,
            kernel.entry,
            (*tensors, *integers, *self._scoring()),
            (grid_of[0] // shape.rows + num_sequences + 1, grid_of[1], slices),
            shape.warps * 32,
            kernel.shared_bytes(shape, head_dim),
            tuple(self._defines(shape).items()),
        )

    def _hopper_shape(self, kernel: attention_hopper.Kernel, target: Target) -> attention_hopper.Shape | None:
        if not all(map(attention_hopper.has_map, (self.q, self.k, self.v))):
            return None
        return kernel.shape(
            target.arch,
            self.q.shape[2],
            is_masked=self.left is not None or self.right is not None,
            has_softcap=self.softcap > 0,
            has_alibi=self.alibi_slopes is not None,
        )

    def _hopper_call(
        self,
        kernel: attention_hopper.Kernel,
        shape: attention_hopper.Shape,
        results: tuple[Tensor, ...],
        boxes: tuple[tuple[Tensor, int], ...],
        per_head: tuple[Tensor | None, ...],
        sizes: tuple[int, ...],
        grid_of: tuple[int, ...],
        target: Target,
    ) -> Call:
        """As many blocks as run at once; each goes from tile to tile of (tokens, heads) = `grid_of`."""
        num_sequences = len(self.cu_seqlens_q) - 1
        maps = (attention_hopper.rows_map(x, rows) for x, rows in boxes)
        bounds = (self.cu_seqlens_q, self.cu_seqlens_k)
        integers = (num_sequences, *sizes, self.q.shape[1] // self.k.shape[1])
        num_tiles = (grid_of[0] // shape.rows + num_sequences + 1) * grid_of[1]
        return Call(
            kernel.source,
            kernel.entry,
            (*results, *maps, *bounds, *per_head, *integers, *self._scoring()),
            (min(num_tiles, target.num_multiprocessors), 1, 1),
            shape.num_threads,
            kernel.shared_bytes(shape, self.q.shape[2]),
            tuple(self._defines(shape).items()),
        )

    def _scoring(self) -> tuple[float, ...]:
        scale = self.q.shape[2] ** -0.5 if self.scale is None else self.scale
        reach = [WHOLE if reach is None else min(reach, WHOLE) for reach in (self.left, self.right)]
        return scale, self.softcap, *reach


def _strides(x: Tensor) -> tuple[int, int]:
    """From token to token and from head to head; that of a dimension with one place is never used."""
    return x.stride(0) if x.shape[0] > 1 else 0, x.stride(1) if x.shape[1] > 1 else 0


def is_readable(x: Tensor) -> bool:
    """Whether the kernels can read a tensor (T, H, D) where it lies."""
    strides = _strides(x)
    aligned = all(stride % CHUNK == 0 and 0 <= stride < 2**31 for stride in strides)
    return aligned and x.stride(2) == 1 and x.data_ptr() % CHUNK_BYTES == 0


def is_supported(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether the kernels take heads of this dimension and dtype."""
    return dtype in ELEMENTS and head_dim % CHUNK == 0 and 0 < head_dim <= MAX_HEAD_DIM


def variants(
    arch: str, head_dim: int, dtype: torch.dtype
) -> Iterator[tuple[str, tuple[str, dict[str, str | int]]]]:
    """What causal attention needs on an architecture: the entry point, the source and its macros."""
    for kernel in KERNELS:
        shape = kernel.shape(head_dim, Target(arch).shared_limit)
        yield kernel.entry, (kernel.source, defines(shape, head_dim, dtype))
    for hopper in attention_hopper.KERNELS:
        if made := hopper.shape(arch, head_dim):
            yield hopper.entry, (hopper.source, defines(made, head_dim, dtype))
