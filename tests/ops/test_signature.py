from __future__ import annotations

import pytest

import tempa
from tempa.ops import nvrtc
from tempa.ops.signature import signatures


def test_every_kernel_of_the_package_declares_what_can_be_passed() -> None:
    for source in sorted(nvrtc.SOURCES.glob("*.cu")):
        text = source.read_text()
        kernels = signatures(text)
        assert len(kernels) == text.count("__global__ void"), source.name
        assert all(kernels.values())


def test_types_are_read_through_comments_lines_and_launch_bounds() -> None:
    text = """
        // __global__ void no(double x)
        extern "C" __global__ void __launch_bounds__((THREADS + 1) * ROWS, 2)
        first(const ELEMENT* __restrict__ x, unsigned long long /* wide */ n,
              const __grid_constant__ TensorMap map, unsigned m) {}
        extern "C" __global__ void second(int n, const float eps) {}
    """
    assert signatures(text) == {
        "first": ("pointer", "unsigned long long", "TensorMap", "unsigned"),
        "second": ("int", "float"),
    }


def test_a_type_that_cannot_be_passed_is_named() -> None:
    with pytest.raises(tempa.Error, match="kernel k: 'double x' is none of int, unsigned,"):
        signatures("__global__ void k(int n, double x) {}")
