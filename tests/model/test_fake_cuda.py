"""Model, optimizer and cache on a CUDA device that is not there.

Fake tensors have a device and no memory. Tensors of two devices in one operation, operators without a fake
implementation, and questions that only the device could answer are errors. `tests/gpu` checks the numbers.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tempa.data.packed import Packed
from tempa.engine.sequences import Sequences
from tempa.model import ModelConfig, Transformer
from tempa.train.adamw import AdamW
from tempa.train.optim import Optimizer, clip_gradients
from tempa.train.settings import TrainConfig

SMALL: dict[str, Any] = {"depth": 2, "width": 128, "num_heads": 2}
Models = dict[str, Transformer]
CONFIGS = {
    "modern": ModelConfig.preset("85m", 50, **SMALL, num_kv_heads=1),
    "swiglu": ModelConfig(50, **SMALL, mlp="swiglu", window=9, softcap=15.0, tied=False),
    "gpt2": ModelConfig.preset("gpt2", 50, **SMALL, max_positions=64, bias=True),
}
ENDS = (0, 5, 6, 20)


class _Operators(TorchDispatchMode):
    """Counts the operators of ours that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        self.counts[name] += namespace == "tempa"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def models() -> Models:
    """Made before tensors are fake: their weights are swapped for fake ones as they go to the device."""
    return {name: Transformer(config) for name, config in CONFIGS.items()}


@pytest.fixture
def batch() -> Packed:
    """On the CPU, with what the host works out of it for the device."""
    batch = Packed.from_rows([np.zeros(length, np.int64) for length in np.diff(ENDS)])
    assert (len(batch.bounds), len(batch.places)) == (len(ENDS), ENDS[-1] - len(ENDS) + 1)
    return batch


@pytest.fixture
def operators(models: Models, batch: Packed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Tensors on "cuda" are fake, and calls of our operators are counted."""
    properties = SimpleNamespace(
        multi_processor_count=132,
        shared_memory_per_block_optin=227 << 10,
        shared_memory_per_multiprocessor=228 << 10,
    )
    del models, batch
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    # Fake memory has no address to write to from the host.
    monkeypatch.setattr(
        "tempa.data.upload._in_one_piece",
        lambda arrays, device: [torch.from_numpy(np.array(array)).to(device) for array in arrays],
    )
    with FakeTensorMode(allow_non_fake_inputs=True), _Operators() as mode:
        yield mode.counts


@contextmanager
def _autocast(precision: str) -> Iterator[None]:
    """As `torch.autocast`, which does nothing where there is no device."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", precision == "bf16")
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


def _backward(root: Tensor) -> None:
    """What autograd does, without its threads, which would ask for the device."""
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    met = {root.grad_fn}
    gradients[root.grad_fn][0] = torch.ones_like(root)
    line = [(-root.grad_fn._sequence_nr(), 0, root.grad_fn)]
    while line:
        node = heapq.heappop(line)[2]
        known = gradients.pop(node)
        if hasattr(node, "variable"):
            # What was spread over rows, as a bias, is summed by autograd itself.
            node.variable.grad = known[0].sum_to_size(node.variable.shape)
            continue
        # Functions written in Python are called by name, and give None for what is no tensor.
        is_python = not callable(node)
        given = (node.apply if is_python else node)(*(known.get(i) for i in range(len(node._input_metadata))))
        given = given if isinstance(given, tuple) else (given,)
        edges = node.next_functions
        if is_python:
            edges = [edge for edge in edges if edge[0] is not None]
            given = [gradient for gradient in given if gradient is not None]
        for (following, place), gradient in zip(edges, given, strict=True):
            if following is None or gradient is None:
                continue
            before = gradients[following].get(place)
            gradients[following][place] = gradient if before is None else before + gradient
            if following not in met:
                met.add(following)
                # Leaves have the highest numbers, and wait for all that leads to them.
                is_leaf = hasattr(following, "variable")
                number = 1 if is_leaf else -following._sequence_nr()
                heapq.heappush(line, (number, len(met), following))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_stays_on_the_device_and_runs_our_kernels(
    name: str, precision: str, models: Models, batch: Packed, operators: Counter[str]
) -> None:
    config = CONFIGS[name]
    model = models[name].to("cuda")
    with _autocast(precision):
        ids = torch.zeros(ENDS[-1], dtype=torch.int64, device="cuda")
        ends = torch.tensor(ENDS, device="cuda")
        total, _ = model.loss(Packed(ids, ids, ids.float(), ends, batch))
    assert (total.device.type, total.dtype) == ("cuda", torch.float32)
    _backward(total)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert (parameter.grad.device, parameter.grad.dtype) == (parameter.device, parameter.dtype)

    has_rope, depth = config.positions == "rope", config.depth
    expected = Counter({"add_norm": 2 * depth, "norm": 1})
    # Forward and backward; the embedding is normalised and has no weight, queries and keys likewise.
    expected["norm"] += has_rope * (1 + depth)
    expected["norm_backward"] = expected["norm"] + expected["add_norm"]
    expected["rope"] = has_rope * 2 * depth
    for backward in ("activation", "activation_backward"):
        expected[backward] = (config.mlp != "gelu") * depth
    for attended in ("attention", "attention_backward"):
        expected[attended] = (precision == "bf16") * depth
    for scored in ("linear_logp", "linear_logp_backward"):
        expected[scored] = int(precision == "bf16")
    assert +operators == +expected


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_optimizer_moves_parameters_where_they_are(
    kind: str, models: Models, operators: Counter[str]
) -> None:
    model = models["modern"].to("cuda")
    optimizer = Optimizer([("", model)], TrainConfig(optimizer=kind))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm = clip_gradients(optimizer.parameters.values(), 1.0)
    assert norm.device.type == "cuda"
    for moved, _ in optimizer._optimizers:
        if isinstance(moved, AdamW):
            # The count of steps is a number of the host.
            moved._count = lambda parameter, moved=moved: _first_step(moved, parameter)  # type: ignore[method-assign]
    optimizer.step(1.0)
    assert operators["adamw_"] >= 1


def _first_step(moved: AdamW, parameter: Tensor) -> int:
    moved.state[parameter] = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
    return 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_sequences_are_advanced_on_the_device(
    name: str, dtype: torch.dtype, models: Models, operators: Counter[str]
) -> None:
    config = CONFIGS[name]
    model = models[name].to("cuda", dtype).eval()
    sequences = Sequences(model, num_blocks=64, block_size=4, dtype=dtype)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, 50, length) for length in (5, 9)]
    handles, num_cached = sequences.admit(prompts)
    counts = np.array([len(prompt) for prompt in prompts]) - num_cached
    logits = sequences.advance(handles, counts, np.concatenate(prompts))
    assert (tuple(logits.shape), logits.device.type, logits.dtype) == ((2, 50), "cuda", torch.float32)
    packed = Counter(operators)

    new = np.array([3, 4])
    logits = sequences.advance(handles, np.array([1, 1]), new, new_ids=new)
    assert tuple(logits.shape) == (2, 50)
    # A new prompt beside a sequence that goes on.
    [third], _ = sequences.admit([generator.integers(0, 50, 6)])
    both = np.array([handles[0], third])
    ids = np.concatenate([[7], generator.integers(0, 50, 6)])
    sequences.advance(both, np.array([1, 6]), ids, new_ids=ids[:1])

    is_16_bit, has_rope = dtype != torch.float32, config.positions == "rope"
    assert packed["attention"] == is_16_bit * config.depth
    assert operators["paged_attention"] == is_16_bit * 2 * config.depth
    assert operators["rope_to_cache"] == has_rope * 3 * config.depth
    assert operators["add_norm"] == 3 * 2 * config.depth
