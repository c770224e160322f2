from __future__ import annotations

import pytest
import torch

from tempa.ops.tensor_map import TensorMap


@pytest.mark.parametrize(
    ("tensor", "box", "swizzle_bytes", "rule"),
    [
        (torch.zeros(64), (64,), 0, "a tensor of 2 to 4 dimensions"),
        (torch.zeros(64, 64), (64,), 0, "a box with as many dimensions"),
        (torch.zeros(512, 64), (257, 4), 0, "1 to 256 elements"),
        (torch.zeros(64, 64).T, (4, 4), 0, "a last dimension without gaps"),
        (torch.zeros(64, 63), (4, 4), 0, "strides of a multiple of 16 bytes"),
        (torch.zeros(4, 16, 68)[..., 1:], (4, 4, 4), 0, "an address that is a multiple of 16"),
        (torch.zeros(64, 64), (4, 3), 0, "rows of the box of a multiple of 16 bytes"),
        (torch.zeros(64, 64), (4, 4), 96, "a swizzle of 0, 32, 64 or 128 bytes"),
        (torch.zeros(64, 64), (4, 64), 128, "rows of the box within the swizzle"),
    ],
)
def test_a_tensor_map_that_no_driver_encodes_is_rejected(tensor, box, swizzle_bytes, rule) -> None:
    with pytest.raises(ValueError, match=rule):
        TensorMap(tensor, box, swizzle_bytes)


def test_the_driver_gets_the_last_dimension_first() -> None:
    described = TensorMap(torch.zeros(5, 6, 64, dtype=torch.bfloat16)[:, :4], (2, 3, 32), 64)
    assert described.sizes == (64, 4, 5)
    assert described.stride_bytes == (2, 128, 768)
    assert described.sides == (32, 3, 2)


def test_a_tensor_of_another_type_or_without_elements_has_no_map() -> None:
    for tensor, rule in (
        (torch.zeros(4, 64, dtype=torch.complex128), "elements of 1, 2, 4 or 8 bytes"),
        (torch.zeros(0, 64), r"1 to 2\^32 elements"),
    ):
        with pytest.raises(ValueError, match=rule):
            TensorMap(tensor, (4, 4))
