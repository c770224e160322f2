"""A tensor as the bulk copies of Hopper see it: what `cuTensorMapEncodeTiled` gets.

A kernel takes it by value, as `const __grid_constant__ TensorMap`. Elements outside the tensor read as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What the driver calls an element. Only its size matters to copies.
ELEMENTS = {
    torch.uint8: "UINT8",
    torch.int8: "UINT8",
    torch.float8_e4m3fn: "UINT8",
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.int32: "INT32",
    torch.float32: "FLOAT32",
}
# The second cache fetches so much at once of rows that are as long, else half of it.
WIDE_FETCH_BYTES = 256


@dataclass(frozen=True)
class TensorMap:
    """A tensor and how much of it one copy moves, with the limits of `cuTensorMapEncodeTiled`.

    Attributes:
        tensor: 2 to 4 dimensions, contiguous along the last one; other strides are multiples of 16 bytes.
        box: Elements of one copy along each dimension of the tensor. Kernels name corners the other way
            round, the last dimension first.
        swizzle_bytes: 128, 64, 32, or 0 for none; the last dimension of the box is not longer.

    Raises:
        ValueError: If the driver would refuse it: names the rule.
    """

    tensor: Tensor
    box: tuple[int, ...]
    swizzle_bytes: int = 0

    def __post_init__(self) -> None:
        size, strides = self.tensor.element_size(), self.tensor.stride()
        row_bytes = self.box[-1] * size if self.box else 0
        rules = {
            f"elements of {', '.join(map(str, ELEMENTS))}": self.tensor.dtype in ELEMENTS,
            "a tensor of 2 to 4 dimensions": 2 <= self.tensor.dim() <= 4,
            "a box with as many dimensions": len(self.box) == self.tensor.dim(),
            "1 to 256 elements along each side of the box": all(1 <= side <= 256 for side in self.box),
            "1 to 2^32 elements along each dimension": all(1 <= n <= 1 << 32 for n in self.tensor.shape),
            "a last dimension without gaps": strides[-1:] == (1,),
            "strides of a multiple of 16 bytes": all(stride * size % 16 == 0 for stride in strides[:-1]),
            "strides below 2^40 bytes": all(0 <= stride * size < 1 << 40 for stride in strides),
            "an address that is a multiple of 16": self.tensor.data_ptr() % 16 == 0,
            "rows of the box of a multiple of 16 bytes": row_bytes % 16 == 0,
            "a swizzle of 0, 32, 64 or 128 bytes": self.swizzle_bytes in (0, 32, 64, 128),
            "rows of the box within the swizzle": not self.swizzle_bytes or row_bytes <= self.swizzle_bytes,
        }
        for rule, is_kept in rules.items():
            if not is_kept:
                shape = tuple(self.tensor.shape)
                raise ValueError(f"a tensor map needs {rule}: {self.tensor.dtype}, shape {shape}, {self}")

    def __repr__(self) -> str:
        return f"strides {self.tensor.stride()}, box {self.box}, swizzle {self.swizzle_bytes}"

    # In the driver's order, the last dimension first.
    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements along each dimension."""
        return tuple(reversed(self.tensor.shape))

    @property
    def stride_bytes(self) -> tuple[int, ...]:
        """Bytes from one element to the next along each dimension."""
        return tuple(stride * self.tensor.element_size() for stride in reversed(self.tensor.stride()))

    @property
    def sides(self) -> tuple[int, ...]:
        """Elements of a box along each dimension."""
        return tuple(reversed(self.box))

    def encoded(self) -> Any:
        """The 128 bytes that a kernel gets, as the driver writes them."""
        from cuda.bindings import driver

        from tempa.ops.nvrtc import checked

        rank = self.tensor.dim()
        row_bytes = self.sizes[0] * self.tensor.element_size()
        fetched = WIDE_FETCH_BYTES if row_bytes >= WIDE_FETCH_BYTES else WIDE_FETCH_BYTES // 2
        (made,) = checked(
            driver.cuTensorMapEncodeTiled(
                getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{ELEMENTS[self.tensor.dtype]}"),
                rank,
                self.tensor.data_ptr(),
                [driver.cuuint64_t(size) for size in self.sizes],
                [driver.cuuint64_t(stride) for stride in self.stride_bytes[1:]],
                [driver.cuuint32_t(side) for side in self.sides],
                [driver.cuuint32_t(1)] * rank,
                driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
                getattr(
                    driver.CUtensorMapSwizzle,
                    f"CU_TENSOR_MAP_SWIZZLE_{f'{self.swizzle_bytes}B' if self.swizzle_bytes else 'NONE'}",
                ),
                getattr(
                    driver.CUtensorMapL2promotion,
                    f"CU_TENSOR_MAP_L2_PROMOTION_L2_{fetched}B",
                ),
                driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        )
        return made
