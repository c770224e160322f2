"""Many arrays in one copy: nothing is mixed up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tempa.data import upload as module
from tempa.data.upload import upload

ARRAYS = [
    np.arange(5),
    np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
    np.array([0.5, np.nan], np.float32),
    np.zeros((0, 3), np.int64),
    np.array([True, False, True]),
    np.array([7], np.int8),
]


@pytest.mark.parametrize("name", ["upload", "_in_one_piece"])
def test_values_shapes_and_dtypes_arrive(name: str) -> None:
    """On the CPU `upload` shares memory; the way of other devices is the same code with another device."""
    for array, tensor in zip(ARRAYS, getattr(module, name)(ARRAYS, torch.device("cpu")), strict=True):
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_tensors_of_other_devices_are_aligned_and_keep_their_values() -> None:
    arrays = [array.copy() for array in ARRAYS]
    tensors = module._in_one_piece(arrays, torch.device("cpu"))
    for array in arrays:
        array.fill(1)
    assert all(tensor.data_ptr() % module.ALIGNMENT == 0 for tensor in tensors)
    assert tensors[0].tolist() == [0, 1, 2, 3, 4]


def test_nothing_can_be_uploaded() -> None:
    assert upload([], "meta") == []
    (empty,) = upload([np.zeros(0)], "meta")
    assert empty.shape == (0,)
