"""The shapes that `cuda/attention_forward_hopper.cu` is compiled in, and what it accepts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from tempa.ops.tensor_map import TensorMap

ARCH = "sm_90a"
SOURCE = "attention_forward_hopper.cu"
ENTRY = "attention_forward_hopper"
# Elements of a row in 128 bytes, the width of a swizzle.
PANEL = 64


@dataclass(frozen=True)
class Shape:
    """How a block works; the names are the macros of the source in lower case.

    Attributes:
        groups: Warpgroups that multiply, each with 64 queries; one more loads.
        step: Keys that they take at a time.
        stages: Steps in shared memory.
        by_fma: Of 16 exponentials, those by multiply-adds instead of the special unit.
    """

    groups: int
    step: int
    stages: int
    by_fma: int = 0

    @property
    def rows(self) -> int:
        """Queries of a block."""
        return self.groups * 64

    @property
    def num_threads(self) -> int:
        """Threads of a block."""
        return (self.groups + 1) * 128

    def shared_bytes(self, head_dim: int) -> int:
        """Dynamic shared memory of a block: tiles, and a KiB for the barriers."""
        return (self.rows + 2 * self.stages * self.step) * head_dim * 2 + 1024

    def macros(self) -> dict[str, int]:
        """The macros that belong to the shape."""
        return {name.upper(): value for name, value in asdict(self).items()}


def takes_heads(arch: str, head_dim: int) -> bool:
    """Whether an architecture has the kernel, and for such heads."""
    return arch == ARCH and head_dim in (64, 128)


def takes(arch: str, *tensors: Tensor) -> bool:
    """Whether an architecture has the kernel, and for such (T, H, D), whose strides the other kernels take.

    Maps of tensors have neither empty dimensions nor strides of 0.
    """
    return takes_heads(arch, tensors[0].shape[2]) and all(
        x.numel() and all(n == 1 or stride for n, stride in zip(x.shape, x.stride(), strict=True))
        for x in tensors
    )


def shape(head_dim: int, *, is_masked: bool, is_folded: bool) -> Shape:
    """The shape for heads of `head_dim` elements, which needs no spills.

    Args:
        head_dim: 64 or 128.
        is_masked: Whether queries see a part of the keys only; short steps then waste less.
        is_folded: Whether scores are products and no more; others need registers.
    """
    if head_dim == 64:
        return Shape(3, 128, 4, by_fma=4) if is_folded else Shape(2, 128, 4)
    return Shape(2, 128 if is_masked or not is_folded else 176, 2)


def rows_map(x: Tensor, rows: int) -> TensorMap:
    """(T, H, D) in boxes of so many rows of one head."""
    # That of a dimension with one place is never used, and may be one that no map has.
    strides = (stride if n > 1 else PANEL for n, stride in zip(x.shape[:2], x.stride()[:2], strict=True))
    return TensorMap(x.as_strided(x.shape, (*strides, 1)), (rows, 1, PANEL), 128)
