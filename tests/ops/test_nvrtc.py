from __future__ import annotations

import pytest
import torch

import tempa
from tempa.ops import kernel_cache, nvrtc

pytestmark = pytest.mark.usefixtures("sources")
SCALE = 'extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= FACTOR; }'


@pytest.fixture
def sources(tmp_path, monkeypatch, kernel_cache):
    """A folder of kernels of its own, and an empty cache."""
    assert not kernel_cache.exists()
    folder = tmp_path / "cuda"
    folder.mkdir()
    (folder / "scale.cu").write_text(SCALE)
    monkeypatch.setattr(nvrtc, "SOURCES", folder)
    return folder


def _compile(arch: str = "sm_80", **defines: str | int) -> nvrtc.Binary:
    return nvrtc.compile_source("scale.cu", arch=arch, defines={"FACTOR": 2} | defines)


def test_source_headers_arch_and_macros_each_change_the_key(sources) -> None:
    _compile()
    _compile(arch="sm_90a")
    _compile(FACTOR=3)
    (sources / "extra.cuh").write_text("#pragma once\n")
    _compile()
    (sources / "scale.cu").write_text(SCALE + "\n")
    _compile()
    assert len(list(kernel_cache.cached())) == 5


def test_a_compile_error_names_file_architecture_options_and_line(sources) -> None:
    (sources / "scale.cu").write_text(SCALE.replace("x[", "y["))
    with pytest.raises(nvrtc.KernelCompileError) as error:
        _compile()
    message = str(error.value)
    for part in ("cuda/scale.cu", "sm_80", "-DFACTOR=2", "scale.cu(1)", '"y" is undefined'):
        assert part in message
    assert isinstance(error.value, tempa.Error)
    assert list(kernel_cache.cached()) == []


def test_headers_of_the_folder_can_be_included(sources) -> None:
    (sources / "factor.cuh").write_text("#define FACTOR 5\n")
    (sources / "scale.cu").write_text('#include "factor.cuh"\n' + SCALE)
    assert nvrtc.compile_source("scale.cu", arch="sm_80", defines={}).cubin


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_without_a_gpu_the_message_says_to_name_an_architecture() -> None:
    with pytest.raises(tempa.Error, match="name an architecture, for example sm_90a"):
        nvrtc.device_arch(torch.device("cuda"))
