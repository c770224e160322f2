"""`tempa::norm` and `tempa::add_norm`, behind the functions of `norms.py` on CUDA; kernels in `cuda/norm.cu`.

Registered for CUDA, CPU, fake tensors and autograd, so `torch.compile`, meta tensors and `opcheck` work. The
CPU implementation is there to check the operators; `norms.py` has a shorter way on CPU.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import nvrtc
from tempa.ops.cuda_tensors import ELEMENTS, check, check_same, is_aligned, pack_size
from tempa.ops.norms import rms_norm_gradients

SOURCE = "norm.cu"

# More packs than this do not fit the registers of a thread.
MAX_PACKS = 16
# Blocks of this many threads fill a multiprocessor evenly.
BLOCK_THREADS = 256
MAX_THREADS = 1024


@dataclass(frozen=True)
class Kind:
    """Which norm; the names are the macros of `norm.cu` in lower case.

    Attributes:
        centred: LayerNorm, else RMSNorm.
        weighted: Whether there is a gain.
        biased: Whether there is a bias.
        residual: Whether the residual stream is added before.
    """

    centred: bool = False
    weighted: bool = True
    biased: bool = False
    residual: bool = False


@dataclass(frozen=True)
class Shape:
    """How the threads of a block share rows; the names are the macros of `norm.cu` in lower case."""

    vector: int
    threads: int
    packs: int
    rows: int

    @classmethod
    def of(cls, width: int, dtype: torch.dtype, *, aligned: bool = True, biased: bool = False) -> Shape:
        """The shape for rows of `width` elements.

        Up to a warp, one pack a thread and several rows a block; then four packs a thread, which keeps
        enough loads in flight; then more warps. The sums of a bias take as many registers as those of a gain,
        so with both it is two packs a thread.

        Raises:
            ValueError: If the row does not fit the registers of one block.
        """
        vector = pack_size(width, dtype, aligned=aligned)
        num_packs = -(-width // vector)
        packs_of_thread = 2 if biased else 4
        if num_packs <= 32 * packs_of_thread:
            threads = min(_power_of_two(num_packs), 32)
        else:
            threads = min(_power_of_two(-(-num_packs // packs_of_thread)), MAX_THREADS)
        packs = -(-num_packs // threads)
        if packs > MAX_PACKS:
            raise ValueError(
                f"a norm on CUDA: rows of {width} elements exceed {MAX_PACKS * threads * vector}"
            )
        return cls(vector, threads, packs, BLOCK_THREADS // threads if threads <= 32 else 1)

    def defines(
        self,
        dtype: torch.dtype,
        kind: Kind,
        *,
        branch: torch.dtype | None = None,
        output: torch.dtype | None = None,
    ) -> dict[str, str | int]:
        """The macros that `norm.cu` is compiled with; branch and output have the stream's dtype when None."""
        numbers = {name.upper(): int(value) for name, value in (asdict(self) | asdict(kind)).items()}
        types = {"ELEMENT": dtype, "BRANCH": branch or dtype, "OUTPUT": output or dtype}
        return {name: ELEMENTS[element] for name, element in types.items()} | numbers


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


def forward_into(
    y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    centred: bool,
    residual: Tensor | None = None,
    total: Tensor | None = None,
) -> None:
    """Write the norm of the rows of x, or of x + residual, to y.

    Args:
        y: (..., D); beside float32 rows it may be bfloat16 or float16.
        x: (..., D); with a float32 residual it may be bfloat16 or float16.
        weight: (D,) or None.
        bias: (D,) or None.
        eps: Added under the root.
        centred: LayerNorm, else RMSNorm.
        residual: (..., D), what is added to x, or None.
        total: (..., D), where the sum goes, with a residual.

    Raises:
        ValueError: If a tensor is not contiguous, or does not fit the others in dtype, device or shape.
    """
    kind = Kind(centred, weight is not None, bias is not None, residual is not None)
    if (residual is None) != (total is None):
        raise ValueError("a norm on CUDA: a residual and the place of the sum come together")
    rows = x if residual is None else residual
    num_rows, shape = _rows(kind, rows, (total,), (weight, bias), narrow=(y, x))
    if num_rows:
        tensors = (y, total, x, residual, weight, bias)
        kernel = _kernel("norm_forward", shape, rows.dtype, kind, x.dtype, y.dtype, x.device)
        _launch(kernel, shape, rows, -(-num_rows // shape.rows), tensors, num_rows, eps)


def backward_into(
    dx: Tensor,
    dweight: Tensor | None,
    dbias: Tensor | None,
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    centred: bool,
    dsum: Tensor | None = None,
    dbranch: Tensor | None = None,
) -> None:
    """Write the gradient of x to dx and the sums over rows of each block to dweight and dbias.

    Args:
        dx: (..., D) like x.
        dweight: (blocks, D) float32 for any number of blocks, such as `num_blocks`; None without a weight.
        dbias: The same for a bias.
        dy: (..., D) gradient of the result, in its dtype.
        x: (..., D), what was normalised: with a residual, the sum.
        weight: (D,) or None, as in the forward call.
        eps: As in the forward call.
        centred: As in the forward call.
        dsum: (..., D) gradient of the sum with the residual, if there was one.
        dbranch: (..., D), where dx also goes, in the dtype of what was added to the residual; or None.

    Raises:
        ValueError: If a tensor is not contiguous, or does not fit x in dtype, device or shape.
    """
    kind = Kind(centred, weight is not None, dbias is not None, dsum is not None)
    sums = [part for part in (dweight, dbias) if part is not None]
    width = x.shape[-1]
    if kind.weighted != (dweight is not None) or any(
        part.dtype != torch.float32 or part.shape != (len(sums[0]), width) or not part.is_contiguous()
        for part in sums
    ):
        raise ValueError(f"a norm on CUDA: sums for a weight and a bias are float32 (blocks, {width})")
    num_rows, shape = _rows(kind, x, (dx, dsum), (weight,), narrow=(dy, dbranch))
    if num_rows:
        blocks = len(sums[0]) if sums else num_blocks(x, kind)
        tensors = (dx, dbranch, dweight, dbias, dy, dsum, x, weight)
        branch = x.dtype if dbranch is None else dbranch.dtype
        kernel = _kernel("norm_backward", shape, x.dtype, kind, branch, dy.dtype, x.device)
        _launch(kernel, shape, x, blocks, tensors, num_rows, eps)


def num_blocks(x: Tensor, kind: Kind) -> int:
    """Blocks of the backward kernel: enough to fill the device, not more than there are rows."""
    num_rows, shape = _rows(kind, x, (), ())
    resident = torch.cuda.get_device_properties(x.device).multi_processor_count
    per_processor = max(1, MAX_THREADS // (shape.threads * shape.rows))
    return min(-(-num_rows // shape.rows), resident * per_processor)


def _rows(
    kind: Kind,
    x: Tensor,
    like_x: tuple[Tensor | None, ...],
    vectors: tuple[Tensor | None, ...],
    *,
    narrow: tuple[Tensor | None, ...] = (),
) -> tuple[int, Shape]:
    """Rows and shape, after a check; what is `narrow` may have 16 bits beside a float32 x."""
    check("a norm", x, *like_x, *vectors)
    for tensor in narrow:
        if tensor is not None:
            check("a norm", tensor)
            check_same("a norm", x, tensor, tensor.dtype if x.dtype == torch.float32 else x.dtype)
    width = x.shape[-1]
    for tensors, expected in (((*like_x, *narrow), x.shape), (vectors, (width,))):
        for tensor in tensors:
            if tensor is not None and tensor.shape != expected:
                raise ValueError(
                    f"a norm on CUDA: expected a tensor of shape {tuple(expected)}, got {tuple(tensor.shape)}"
                )
    shape = _shape(width, x.dtype, is_aligned(x, *like_x, *vectors, *narrow), kind.biased)
    return x.numel() // width if width else 0, shape


@functools.cache
def _shape(width: int, dtype: torch.dtype, aligned: bool, biased: bool) -> Shape:
    return Shape.of(max(width, 1), dtype, aligned=aligned, biased=biased)


def _launch(
    kernel: nvrtc.Kernel,
    shape: Shape,
    x: Tensor,
    blocks: int,
    tensors: tuple[Tensor | None, ...],
    num_rows: int,
    eps: float,
) -> None:
    block = (shape.threads, shape.rows)
    nvrtc.launch(kernel, *tensors, num_rows, x.shape[-1], eps, grid=blocks, block=block)


@functools.cache
def _kernel(
    entry: str,
    shape: Shape,
    dtype: torch.dtype,
    kind: Kind,
    branch: torch.dtype,
    output: torch.dtype,
    device: torch.device,
) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, entry, device, shape.defines(dtype, kind, branch=branch, output=output))


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _norm_cuda(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x, dtype=dtype)
    forward_into(y, x, _contiguous(weight), _contiguous(bias), eps, centred=centred)
    return y


def _add_norm_cuda(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    x, residual = x.contiguous(), residual.contiguous()
    y, total = torch.empty_like(residual, dtype=dtype), torch.empty_like(residual)
    gain, shift = _contiguous(weight), _contiguous(bias)
    forward_into(y, x, gain, shift, eps, centred=centred, residual=residual, total=total)
    return y, total


def _backward_cuda(
    dy: Tensor,
    dsum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    centred: bool,
    biased: bool,
    branch: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = x.contiguous()
    dx = torch.empty_like(x)
    dbranch = None if branch is None else torch.empty_like(x, dtype=branch)
    kind = Kind(centred, weight is not None, biased, dsum is not None)
    blocks = num_blocks(x, kind)
    dweight, dbias = (
        x.new_empty(blocks, x.shape[-1], dtype=torch.float32) if has else None
        for has in (weight is not None, biased)
    )
    backward_into(
        *(dx, dweight, dbias, dy.contiguous(), x, _contiguous(weight), eps),
        centred=centred,
        dsum=_contiguous(dsum),
        dbranch=dbranch,
    )
    return dx, _total(dweight, x), _total(dbias, x), x.new_empty(0) if dbranch is None else dbranch


def _total(sums: Tensor | None, x: Tensor) -> Tensor:
    """The gradient of a vector from the sums of all blocks; empty where there is no vector."""
    return x.new_empty(0) if sums is None else sums.sum(0).to(x.dtype)


def _norm_cpu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if centred:
        y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    else:
        y = F.rms_norm(x, x.shape[-1:], weight, eps)
        y = y if bias is None else y + bias
    return y.to(dtype or x.dtype).contiguous()


def _add_norm_cpu(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    total = (x + residual).contiguous()
    return _norm_cpu(total, weight, bias, eps, centred, dtype), total


def _backward_cpu(
    dy: Tensor,
    dsum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    centred: bool,
    biased: bool,
    branch: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy, dweight = dy.to(x.dtype), None
    if centred:
        _, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, None, eps)
        mask = [True, weight is not None, False]
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            dy, x, x.shape[-1:], mean, scale, weight, None, mask
        )
    else:
        dx, dweight = rms_norm_gradients(dy, x, weight, eps)
    if dsum is not None:
        dx = dx + dsum
    empty = x.new_empty(0)
    dbias = dy.flatten(0, -2).sum(0) if biased else empty
    dbranch = empty if branch is None else dx.to(branch, copy=True)
    return dx.contiguous(), x.new_empty(0) if dweight is None else dweight, dbias, dbranch.contiguous()


def _norm_fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    del weight, bias, eps, centred
    return x.new_empty(x.shape, dtype=dtype)


def _add_norm_fake(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    del x, weight, bias, eps, centred
    return residual.new_empty(residual.shape, dtype=dtype), residual.new_empty(residual.shape)


def _backward_fake(
    dy: Tensor,
    dsum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    centred: bool,
    biased: bool,
    branch: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del dy, dsum, eps, centred
    width = x.shape[-1]
    dweight, dbias = x.new_empty(0 if weight is None else width), x.new_empty(width if biased else 0)
    dbranch = x.new_empty(0) if branch is None else x.new_empty(x.shape, dtype=branch)
    return x.new_empty(x.shape), dweight, dbias, dbranch


def _setup_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, weight, bias, ctx.eps, ctx.centred, _ = inputs
    ctx.biased, ctx.branch = bias is not None, None
    ctx.save_for_backward(x, weight)


def _setup_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, ctx.eps, ctx.centred, _ = inputs
    ctx.biased, ctx.branch = bias is not None, None if x.dtype == residual.dtype else x.dtype
    ctx.save_for_backward(output[1], weight)


def _norm_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias, _ = _gradients(ctx, dy, None)
    return dx, dweight, dbias, None, None, None


def _add_norm_gradients(ctx: Any, dy: Tensor, dsum: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias, dbranch = _gradients(ctx, dy, dsum)
    return dx if ctx.branch is None else dbranch, dx, dweight, dbias, None, None, None


def _gradients(
    ctx: Any, dy: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    x, weight = ctx.saved_tensors
    dx, dweight, dbias, dbranch = torch.ops.tempa.norm_backward(
        dy, dsum, x, weight, ctx.eps, ctx.centred, ctx.biased, ctx.branch
    )
    return dx, None if weight is None else dweight, dbias if ctx.biased else None, dbranch


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "norm(Tensor x, Tensor? weight, Tensor? bias, float eps, bool centred, ScalarType? dtype=None) -> Tensor"
)
_library.define(
    "add_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps, bool centred,"
    " ScalarType? dtype=None) -> (Tensor, Tensor)"
)
_library.define(
    "norm_backward(Tensor dy, Tensor? dsum, Tensor x, Tensor? weight, float eps, bool centred, bool biased,"
    " ScalarType? branch=None) -> (Tensor, Tensor, Tensor, Tensor)"
)
for _name, _cuda, _cpu, _fake in (
    ("norm", _norm_cuda, _norm_cpu, _norm_fake),
    ("add_norm", _add_norm_cuda, _add_norm_cpu, _add_norm_fake),
    ("norm_backward", _backward_cuda, _backward_cpu, _backward_fake),
):
    _library.impl(_name, _cuda, "CUDA")
    _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"tempa::{_name}", _fake, lib=_library)
torch.library.register_autograd("tempa::norm", _norm_gradients, setup_context=_setup_norm, lib=_library)
torch.library.register_autograd(
    "tempa::add_norm", _add_norm_gradients, setup_context=_setup_add_norm, lib=_library
)
