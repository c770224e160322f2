"""The kernels of `cuda/attention_*_hopper.cu`: the shapes they are compiled in, and what they accept."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from tempa.ops.tensor_map import TensorMap

ARCH = "sm_90a"
# Elements of a row in 128 bytes, the width of a swizzle.
PANEL = 64
# Barriers, and what a block keeps of each row of the other side besides its tiles.
REST_BYTES = 4096


@dataclass(frozen=True)
class Shape:
    """How a block works; the names are the macros of `attention_hopper.cuh` in lower case.

    Attributes:
        groups: Warpgroups that multiply, each with 64 rows; one more loads.
        step: Rows of the other side that they take at a time.
        stages: Steps in shared memory.
        by_fma: Of 16 exponentials of the forward, those by multiply-adds instead of the special unit.
    """

    groups: int
    step: int
    stages: int
    by_fma: int = 0

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.groups * 64

    @property
    def num_threads(self) -> int:
        """Threads of a block."""
        return (self.groups + 1) * 128

    def macros(self) -> dict[str, int]:
        """The macros that belong to the shape."""
        return {name.upper(): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Kernel:
    """An entry point, whose source has its name.

    Attributes:
        entry: Name of the function.
        row_tensors: Tiles of a block's rows in shared memory; of the other side there are two a stage.
    """

    entry: str
    row_tensors: int

    @property
    def source(self) -> str:
        """File in `cuda/`."""
        return f"{self.entry}.cu"

    def shared_bytes(self, shape: Shape, head_dim: int) -> int:
        """Dynamic shared memory of a block."""
        return (self.row_tensors * shape.rows + 2 * shape.stages * shape.step) * head_dim * 2 + REST_BYTES

    def shape(
        self,
        arch: str,
        head_dim: int,
        *,
        is_masked: bool = True,
        has_softcap: bool = False,
        has_alibi: bool = False,
    ) -> Shape | None:
        """The shape, which needs no spills, or None where the kernels for every device do the work.

        Args:
            arch: Architecture, such as sm_90a.
            head_dim: Elements of a head.
            is_masked: Whether rows see a part of the others only; short steps then waste less.
            has_softcap: Whether scores are bounded, which takes registers.
            has_alibi: Whether they fall with the distance, which takes some too.
        """
        if arch != ARCH or head_dim not in (64, 128):
            return None
        is_folded = not has_softcap and not has_alibi
        if self is FORWARD and head_dim == 64:
            return Shape(3, 128, 4, by_fma=4) if is_folded else Shape(2, 128, 4)
        if self is FORWARD:
            return Shape(2, 128 if is_masked or not is_folded else 176, 2)
        if self is BACKWARD_QUERIES:
            return Shape(2, 128, 4) if head_dim == 64 else Shape(2, 96, 3)
        if head_dim == 64:
            return Shape(2, 96, 4)
        return None if has_softcap else Shape(2, 64, 4)


FORWARD = Kernel("attention_forward_hopper", 1)
BACKWARD_QUERIES = Kernel("attention_backward_queries_hopper", 2)
BACKWARD_KEYS = Kernel("attention_backward_keys_hopper", 2)
KERNELS = (FORWARD, BACKWARD_QUERIES, BACKWARD_KEYS)


def has_map(x: Tensor) -> bool:
    """Whether (T, H, D) as other kernels take it has a map: it is not empty and has no stride of 0."""
    return bool(x.numel()) and all(n == 1 or stride for n, stride in zip(x.shape, x.stride(), strict=True))


def rows_map(x: Tensor, rows: int) -> TensorMap:
    """(T, H, D) in boxes of so many rows of one head."""
    # That of a dimension with one place is never used, and may be one that no map has.
    strides = (stride if n > 1 else PANEL for n, stride in zip(x.shape[:2], x.stride()[:2], strict=True))
    return TensorMap(x.as_strided(x.shape, (*strides, 1)), (rows, 1, PANEL), 128)
