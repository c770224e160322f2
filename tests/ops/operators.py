"""A small problem for every operator of `torch.ops.tempa`, which tests run on any device and in any way.

Together they reach every entry point of `cuda/`; `test_operators.py` sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from simulator import simulate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tempa import ops
from tempa.ops import (
    adamw_cuda,
    attention_cuda,
    glu_cuda,
    linear_loss_cuda,
    norm_cuda,
    nvrtc,
    paged_cuda,
    policy_cuda,
    rope_cuda,
    rope_scaled_cuda,
    sample_cuda,
    scaled,
    scan_cuda,
)
from tempa.ops.paged_plan import plan
from tempa.ops.sampler_cuda import CudaSampler
from tempa.ops.signature import signatures
from tempa.sample import Sampler, Settings

# What an operator runs on CUDA, by its name.
ON_CUDA: dict[str, Callable[..., Any]] = {
    "activation": glu_cuda._forward_cuda,
    "activation_backward": glu_cuda._backward_cuda,
    "adamw_": adamw_cuda._step_cuda,
    "add_norm": norm_cuda._add_norm_cuda,
    "attention": attention_cuda._forward_cuda,
    "attention_backward": attention_cuda._backward_cuda,
    "discounted_sums": scan_cuda._sums_cuda,
    "linear_logp": linear_loss_cuda._forward_cuda,
    "linear_logp_backward": linear_loss_cuda._backward_cuda,
    "norm": norm_cuda._norm_cuda,
    "norm_backward": norm_cuda._backward_cuda,
    "paged_attention": paged_cuda._cuda,
    "policy_loss": policy_cuda._loss_cuda,
    "rope": rope_cuda._rope_cuda,
    "rope_to_cache": rope_cuda._to_cache_cuda,
    "rope_to_scaled_cache": rope_scaled_cuda._cuda,
    "sample": sample_cuda._sample_cuda,
}
BFLOAT16 = 2e-2
FLOAT32 = 2e-5


@dataclass(frozen=True)
class Operator:
    """One call of an operator.

    Attributes:
        case: Names it among others.
        name: Of `torch.ops.tempa`.
        arguments: Makes them, with CPU tensors, from a generator.
        leaves: Which of them get a gradient.
        changed: Which of them are written to: they are results too.
        tolerance: Most of |result - CPU result| / |CPU result| on a GPU.
        can_be_captured: Whether a CUDA graph of it is of use.
        by_hand: What else gives its results, if the operator is not for the CPU.
    """

    case: str
    name: str
    arguments: Callable[[torch.Generator], list[Any]]
    leaves: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    tolerance: float = BFLOAT16
    can_be_captured: bool = True
    by_hand: Callable[..., Tensor] | None = None

    @property
    def op(self) -> Any:
        """What torch calls."""
        return getattr(torch.ops.tempa, self.name)

    @property
    def checks(self) -> tuple[str, ...]:
        """What `torch.library.opcheck` can check of it."""
        if self.name == "adamw_":
            # Lists of tensors that change are more than the checks of autograd take.
            return "test_schema", "test_faketensor"
        if self.case.endswith("e4m3"):
            # Torch cannot compare these on the CPU.
            return ("test_faketensor",)
        return "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"

    def prepared(self, device: torch.device | str) -> list[Any]:
        """The same arguments on any device."""
        made = self.arguments(torch.Generator().manual_seed(1))
        arguments = [_moved(argument, device) for argument in made]
        for place in self.leaves:
            arguments[place].requires_grad_()
        return arguments

    def expected(self) -> list[Tensor]:
        """The results on the CPU."""
        return self.results(self.prepared("cpu"), self.by_hand)

    def results(self, arguments: Sequence[Any], function: Callable[..., Any] | None = None) -> list[Tensor]:
        """All that the operator gives and changes, and the gradients of what gets one."""
        out = (function or self.op)(*arguments)
        given = [x for x in ([out] if isinstance(out, Tensor) else out or []) if isinstance(x, Tensor)]
        if self.leaves:
            # Not all ones: most sums of gradients would vanish.
            roots = [x for x in given if x.requires_grad]
            seeds = [torch.linspace(-1, 1.5, x.numel(), device=x.device).view(x.shape).to(x) for x in roots]
            leaves = [arguments[place] for place in self.leaves]
            given += torch.autograd.grad(roots, leaves, seeds)
        changed = [x for place in self.changed for x in _listed(arguments[place])]
        return [x.detach() for x in (*given, *changed)]


def _listed(argument: Any) -> list[Tensor]:
    return [argument] if isinstance(argument, Tensor) else list(argument)


def _moved(argument: Any, device: torch.device | str) -> Any:
    if isinstance(argument, Tensor):
        return argument.to(device)
    if isinstance(argument, list) and argument and isinstance(argument[0], Tensor):
        return [tensor.to(device) for tensor in argument]
    return argument


def _normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _norm(width: int, dtype: torch.dtype, *, centred: bool) -> Callable[[torch.Generator], list[Any]]:
    def arguments(generator: torch.Generator) -> list[Any]:
        x, weight = _normal(generator, 5, width, dtype=dtype), _normal(generator, width, dtype=dtype)
        return [x, weight, weight.flip(0) if centred else None, 1e-5, centred]

    return arguments


def _add_norm(generator: torch.Generator) -> list[Any]:
    x, residual, weight = (_normal(generator, *shape) for shape in ((7, 72), (7, 72), (72,)))
    return [x, residual, weight, None, 1e-5, False]


def _add_norm_of_a_wide_stream(generator: torch.Generator) -> list[Any]:
    x, residual, weight = _normal(generator, 3, 136), _normal(generator, 3, 136), _normal(generator, 136)
    return [x, residual.float(), weight.float(), None, 1e-5, True, torch.bfloat16]


def _activation(function: str, width: int) -> Callable[[torch.Generator], list[Any]]:
    return lambda generator: [_normal(generator, 5, width), function, function != "relu2"]


def _heads(generator: torch.Generator, num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = _normal(generator, num_tokens, 10, 16).split((6, 2, 2), dim=1)
    turns = ops.rotations(torch.arange(num_tokens) * 7, 16, max_positions=7 * num_tokens)
    return q, k, v, turns


def _rope(generator: torch.Generator) -> list[Any]:
    q, _, _, turns = _heads(generator, 9)
    return [q, turns, False]


def _rope_to_cache(generator: torch.Generator) -> list[Any]:
    q, k, v, turns = _heads(generator, 9)
    slots = torch.randperm(16, generator=generator)[:9]
    slots[4] = -1
    pools = [torch.zeros(4, 2, 4, 16, dtype=q.dtype) for _ in range(2)]
    return [q, k, v, turns, slots, *pools]


def _rope_to_bytes(dtype: torch.dtype, *, turned: bool) -> Callable[[torch.Generator], list[Any]]:
    def arguments(generator: torch.Generator) -> list[Any]:
        q, k, v, turns, slots, *_ = _rope_to_cache(generator)
        pools = [torch.zeros(4, scaled.block_bytes(2, 4, 16), dtype=torch.int8).view(dtype) for _ in "kv"]
        return [q, k, v, turns if turned else None, slots, *pools, 4]

    return arguments


def _paged(dtype: torch.dtype, **rules: Any) -> Callable[[torch.Generator], list[Any]]:
    """One sequence of several splits, one of a chunk, one of a single token."""

    def arguments(generator: torch.Generator) -> list[Any]:
        size, heads, kv_heads, width = 16, 4, 1, 32
        lengths, new = np.array([300, 70, 1]), np.array([1, 20, 1])
        starts = np.concatenate([[0], new.cumsum()])
        blocks = -(-lengths // size)
        tables = torch.zeros(3, int(blocks.max()), dtype=torch.int32)
        order = torch.randperm(int(blocks.sum()), generator=generator).int().split(blocks.tolist())
        for row, listed in zip(tables, order, strict=True):
            row[: len(listed)] = listed
        pools = [_stored(_normal(generator, int(blocks.sum()), kv_heads, size, width), dtype) for _ in "kv"]
        made = plan(lengths, starts, group=heads // kv_heads, num_kv_heads=kv_heads, resident=264)
        launches = [number for launch in made.launches for number in launch]
        slopes = 2.0 ** -torch.arange(1, heads + 1) if rules.get("alibi") else None
        return [
            *(_normal(generator, int(starts[-1]), heads, width), *pools, tables, torch.from_numpy(lengths)),
            *(torch.from_numpy(starts), torch.from_numpy(made.items), launches, size, kv_heads),
            *(rules.get("window"), rules.get("sinks", 0), rules.get("softcap"), slopes),
        ]

    return arguments


def _stored(pool: Tensor, dtype: torch.dtype) -> Tensor:
    """Blocks as caches keep them: of bytes with a scale for each row behind the rows."""
    if dtype not in paged_cuda.SCALED:
        return pool
    scales = pool.float().abs().amax(-1) / 100
    rows = (pool.float() / scales[..., None]).round().to(dtype).view(torch.uint8).flatten(1)
    return torch.cat([rows, scales.flatten(1).view(torch.uint8)], 1).view(dtype)


def _attention(width: int, **rules: Any) -> Callable[[torch.Generator], list[Any]]:
    """Lengths below and above a tile, and none; fewer or more keys than queries."""

    def arguments(generator: torch.Generator) -> list[Any]:
        queries, keys = [5, 0, 70, 3], [9, 4, 70, 0]
        bounds = [torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (queries, keys)]
        q = _normal(generator, sum(queries), 4, width)
        k, v = (_normal(generator, sum(keys), 2, width) for _ in "kv")
        slopes = torch.rand(4, generator=generator) / 4 if rules.get("alibi") else None
        sinks = torch.randn(4, generator=generator) if rules.get("sinks") else None
        return [q, k, v, *bounds, slopes, sinks, None, rules.get("left"), 0, rules.get("softcap", 0.0)]

    return arguments


def _linear_logp(softcap: float | None) -> Callable[[torch.Generator], list[Any]]:
    def arguments(generator: torch.Generator) -> list[Any]:
        targets = torch.randint(0, 300, (130,), generator=generator)
        return [_normal(generator, 130, 40), _normal(generator, 300, 40) / 2, targets, 0.8, softcap]

    return arguments


def _adamw(dtype: torch.dtype) -> Callable[[torch.Generator], list[Any]]:
    def arguments(generator: torch.Generator) -> list[Any]:
        shapes = [(7,), (3, 40), (16385,)]
        parameters, gradients = ([_normal(generator, *s, dtype=dtype) for s in shapes] for _ in range(2))
        means, squares = ([torch.rand(s, generator=generator) for s in shapes] for _ in range(2))
        return [parameters, gradients, means, squares, 3, 0.1, (0.9, 0.95), 1e-8, 0.1]

    return arguments


def _sums(generator: torch.Generator) -> list[Any]:
    rewards, values = torch.randn(2, 120, generator=generator)
    offsets = torch.tensor([0, 5, 5, 45, 120])
    return [rewards, values, torch.randn(4, generator=generator), offsets, 0.99, 0.95]


def _policy(generator: torch.Generator) -> list[Any]:
    logps, moved, advantages, apart = torch.randn(4, 120, generator=generator)
    offsets = torch.tensor([0, 5, 5, 45, 120])
    tensors = [logps, logps - moved / 3, advantages, offsets, logps - apart / 2]
    return [*tensors, (0.2, 0.3), False, 1.0, 3, 0.1]


SETTINGS = [Settings(top_p=0.9, temperature=0.8), Settings(top_k=5), Settings(temperature=0)]
VOCABULARY, TOP = 2500, 4


def _sample(generator: torch.Generator) -> list[Any]:
    sampler = CudaSampler(VOCABULARY)
    handles = [sampler.add(settings, seed=seed) for seed, settings in enumerate(SETTINGS)]
    described = sampler.batch(handles, np.arange(len(handles))).tensors(torch.device("cpu"))
    logits = 3 * _normal(generator, len(handles), VOCABULARY, dtype=torch.float32)
    return [logits, *described, None, VOCABULARY, TOP, True]


def _sample_by_hand(logits: Tensor, *_: Any) -> Tensor:
    sampler = Sampler(VOCABULARY)
    handles = [sampler.add(settings, seed=seed) for seed, settings in enumerate(SETTINGS)]
    draws = sampler.step(handles, logits, top_n=TOP)
    bits = (logps.view(np.int32) for logps in (draws.logps[:, None], draws.kept_logps[:, None]))
    columns = (draws.ids[:, None], *bits, draws.top_ids, draws.top_logps.view(np.int32))
    return torch.from_numpy(np.concatenate(columns, 1).astype(np.int32))


OPERATORS = [
    Operator("RMSNorm", "norm", _norm(72, torch.bfloat16, centred=False), leaves=(0, 1)),
    Operator("RMSNorm, several warps", "norm", _norm(1001, torch.float32, centred=False), (0, 1), (), 1e-4),
    Operator("LayerNorm", "norm", _norm(264, torch.bfloat16, centred=True), leaves=(0, 1, 2)),
    Operator("norm of a sum", "add_norm", _add_norm, leaves=(0, 1, 2)),
    Operator("norm of a wide stream", "add_norm", _add_norm_of_a_wide_stream, leaves=(0, 1, 2)),
    Operator("SwiGLU", "activation", _activation("silu", 48), leaves=(0,)),
    Operator("GeGLU, off a pack", "activation", _activation("gelu", 14), leaves=(0,)),
    Operator("squared ReLU", "activation", _activation("relu2", 33), leaves=(0,)),
    Operator("rotary positions", "rope", _rope, leaves=(0,)),
    Operator("rotary positions to cache", "rope_to_cache", _rope_to_cache, changed=(5, 6)),
    # A number that is turned to its neighbour may change all bytes of a scale.
    Operator(
        "rotary positions to bytes, e4m3",
        "rope_to_scaled_cache",
        _rope_to_bytes(torch.float8_e4m3fn, turned=True),
    ),
    Operator("cache of bytes", "rope_to_scaled_cache", _rope_to_bytes(torch.int8, turned=False), (), (5, 6)),
    Operator("paged", "paged_attention", _paged(torch.bfloat16)),
    Operator("paged, int8", "paged_attention", _paged(torch.int8, window=50, sinks=3)),
    Operator("paged, e4m3", "paged_attention", _paged(torch.float8_e4m3fn, softcap=20.0, alibi=True)),
    Operator("attention", "attention", _attention(64), leaves=(0, 1, 2)),
    Operator(
        "attention, all features",
        "attention",
        _attention(128, left=40, softcap=5.0, alibi=True, sinks=True),
        leaves=(0, 1, 2, 6),
    ),
    Operator("losses", "linear_logp", _linear_logp(None), leaves=(0, 1)),
    Operator("losses, bounded", "linear_logp", _linear_logp(9.0), leaves=(0, 1)),
    # The number of the step is part of the launch.
    Operator("AdamW", "adamw_", _adamw(torch.float32), (), (0, 2, 3), FLOAT32, can_be_captured=False),
    Operator("AdamW, bfloat16", "adamw_", _adamw(torch.bfloat16), changed=(0, 2, 3), can_be_captured=False),
    Operator("advantages", "discounted_sums", _sums, tolerance=FLOAT32),
    Operator("policy loss", "policy_loss", _policy, leaves=(0,), tolerance=FLOAT32),
    # Tokens are equal; log-probabilities, of which these are the bits, may differ in the last one.
    Operator("draws", "sample", _sample, tolerance=1e-6, by_hand=_sample_by_hand),
]


class HostSide(TorchDispatchMode):
    """Runs on CPU tensors what operators run on CUDA, up to the launches, which are handed over."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        namespace, _, name = func._schema.name.partition("::")
        if namespace != "tempa":
            return func(*args, **(kwargs or {}))
        declared = func._schema.arguments[len(args) :]
        return ON_CUDA[name](*args, *((kwargs or {}).get(a.name, a.default_value) for a in declared))


@dataclass(frozen=True)
class HeldKernel:
    """What a launch on the CPU stands for."""

    source: str
    entry: str
    defines: tuple[tuple[str, str | int], ...]
    shared_bytes: int


def held(
    source: str, entry: str, device: torch.device, defines: Mapping[str, Any], *, shared_bytes: int = 0
) -> HeldKernel:
    """In place of `nvrtc.load`."""
    del device
    return HeldKernel(source, entry, tuple(sorted(defines.items())), shared_bytes)


def run_simulated(
    kernel: HeldKernel,
    *arguments: Any,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    shared_bytes: int = 0,
) -> None:
    """In place of `nvrtc.launch`, for kernels that are `held`."""
    given = [torch.view_as_real(x) if isinstance(x, Tensor) and x.is_complex() else x for x in arguments]
    sizes: dict[str, Any] = {"grid": grid, "block": block, "shared_bytes": shared_bytes}
    simulate(kernel.source, kernel.entry, *given, **sizes, defines=dict(kernel.defines))


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, infinities that agree left out; infinite if a number is missing."""
    found, expected = found.double().cpu(), expected.double().cpu()
    apart = torch.where(found == expected, 0.0, found - expected).norm()
    length = expected.masked_fill(expected.isinf(), 0).norm()
    share = float(apart / length.clamp(min=1e-30))
    return share if math.isfinite(share) else math.inf


def sources() -> Iterator[tuple[str, str]]:
    """Every entry point of `cuda/`, as (source, entry)."""
    for path in sorted(nvrtc.SOURCES.glob("*.cu")):
        for entry in signatures(path.read_text()):
            yield path.name, entry
