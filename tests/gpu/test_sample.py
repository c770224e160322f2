"""The sampler's kernel on the device: the simulator's tests again, then the vocabularies of models."""

from __future__ import annotations

import numpy as np
import pytest
import test_sample_cuda
import torch
from test_sample_cuda import (  # noqa: F401 - collected here too
    SETTINGS,
    equal,
    simulated,
    test_a_draw_depends_on_nothing_but_its_request,
    test_any_row_under_any_settings_gives_what_the_cpu_gives,
    test_requests_are_kept_as_on_the_cpu,
    test_rows_that_cannot_be_drawn_from_are_sentinels_or_raise_the_same,
    test_the_simulated_kernel_draws_what_the_cpu_draws,
)

from tempa.ops.sampler_cuda import CudaSampler, unpack
from tempa.sample import Sampler, Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def _device(on_device) -> None:
    on_device(test_sample_cuda)


def _logits(kind: str, rows: int, vocab: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(vocab)
    logits = 3 * torch.randn(rows, vocab, generator=generator, device="cuda")
    if kind == "steep":  # as of a model that knows what comes
        logits = logits.sign() * logits.square()
    return logits.to(dtype)


@pytest.mark.parametrize("kind", ["flat", "steep"])
@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [
        (131072, torch.float32),
        (131072, torch.bfloat16),
        (151936, torch.float32),
        (50257, torch.float32),
        (262144, torch.float32),
    ],
    ids=str,
)
def test_a_batch_draws_what_the_cpu_draws(vocab, dtype, kind) -> None:
    logits = _logits(kind, 64, vocab, dtype)
    samplers = Sampler(vocab), CudaSampler(vocab)
    for sampler in samplers:
        for i in range(64):
            sampler.add(list(SETTINGS.values())[i % len(SETTINGS)], prompt=range(9), seed=i)
    words = np.random.default_rng(vocab).integers(-(2**31), 2**31, (64, -(-vocab // 32))).astype(np.int32)
    for step in range(6):
        mask = None if step % 2 else words | 2
        rows = np.roll(np.arange(64), step)
        theirs, ours = (
            sampler.step(np.arange(64), given, rows=rows, mask=mask, top_n=20 * (step % 3))
            for sampler, given in zip(samplers, (logits.cpu(), logits), strict=True)
        )
        equal(ours, theirs)


def test_rows_off_a_pack_and_masks_on_the_device_are_read() -> None:
    columns = torch.randn(5, 4099, device="cuda")
    mask = torch.randint(-(2**31), 2**31, (5, 129), dtype=torch.int32, device="cuda") | 2
    samplers = Sampler(4096), CudaSampler(4096)
    for sampler in samplers:
        for i in range(5):
            sampler.add(Settings(top_p=0.9), seed=i)
    theirs = samplers[0].step(range(5), columns[:, 1:].contiguous().cpu(), mask=mask.cpu())
    equal(samplers[1].step(range(5), columns[:, 1:], mask=mask), theirs)


def test_draws_are_captured_in_a_graph() -> None:
    """A replay draws from what then lies in its tensors."""
    vocab, device = 131072, torch.device("cuda")
    sampler = CudaSampler(vocab)
    handles = [sampler.add(Settings(top_k=50, top_p=0.9), seed=i) for i in range(16)]
    logits = _logits("steep", 16, vocab, torch.float32)
    inputs = sampler.batch(handles, np.arange(16)).tensors(device)

    def draw() -> torch.Tensor:
        return torch.ops.tempa.sample(logits, *inputs, None, vocab, 0, True)

    draw()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = draw()
    for step in range(3):
        logits.copy_(_logits("flat" if step else "steep", 16, vocab, torch.float32))
        for there, here in zip(inputs, sampler.batch(handles, np.arange(16)).tensors(device), strict=True):
            there.copy_(here)
        graph.replay()
        equal(unpack(out.cpu().numpy(), 0), sampler.step(handles, logits))


def test_an_engine_on_the_device_draws_there() -> None:
    from tempa.engine import Engine, Sampling
    from tempa.model import ModelConfig, Transformer

    model = Transformer(ModelConfig(vocab_size=500, depth=2, width=64, num_heads=2, max_positions=64)).cuda()
    asked = Sampling(max_new_tokens=20, temperature=0.8, top_p=0.9, repetition_penalty=1.2, n=3)
    first, second = (Engine(model).generate([[1, 2, 3], [4]], asked) for _ in range(2))
    assert [one.ids.tolist() for group in first for one in group] == [
        one.ids.tolist() for group in second for one in group
    ]
