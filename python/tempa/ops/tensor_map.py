"""`TensorMap`: a tensor and how much of it one bulk copy of Hopper moves.

A kernel takes it by value, as `const __grid_constant__ TensorMap`; the driver encodes it at each launch.
Elements outside the tensor read as zeros.

    TensorMap(tensor, box, swizzle_bytes=0)

- `tensor` has 2 to 4 dimensions and starts at a multiple of 16 bytes. The last dimension has no gaps; strides
  of the others are multiples of 16 bytes.
- `box` has 1 to 256 elements of each dimension; its rows are multiples of 16 bytes. Kernels name corners the
  other way round, the last dimension first.
- `swizzle_bytes` is 128, 64, 32, or 0 for none; rows of the box are not longer.

What breaks a rule is a ValueError that names it.
"""

from tempa._core import TensorMap

__all__ = ["TensorMap"]
