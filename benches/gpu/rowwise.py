"""What only moves memory: norms, rotary positions and gated activations, beside torch, also compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size
from tempa import ops

ROWS, WIDTH = 16384, 4096
EPS = 1e-5
# Results are rounded to bfloat16 once by ours, after every operation by torch.
TOLERANCE = 1.5e-2
SHARE = (Target("share", 0.85),)

Function = Callable[..., Tensor | tuple[Tensor, ...]]


def cases() -> list[Case]:
    """Each with the bytes that its formula has to move: inputs once, results once."""
    return [
        Case("RMSNorm", lambda rig: _norm(rig, WIDTH), is_quick=True),
        Case("RMSNorm, rows of 768", lambda rig: _norm(rig, 768)),
        Case("RMSNorm of a sum", _added_norm),
        Case("LayerNorm", _layer_norm),
        Case("RMSNorm, backward", lambda rig: _norm_backward(rig, centred=False), is_quick=True),
        Case("LayerNorm, backward", lambda rig: _norm_backward(rig, centred=True)),
        Case("SwiGLU", lambda rig: _gated(rig, "silu", F.silu), is_quick=True),
        Case("GeGLU", lambda rig: _gated(rig, "gelu", F.gelu)),
        Case("SwiGLU, backward", _gated_backward),
        Case("rotary positions", _rope, is_quick=True),
        Case("rotary positions and cache", _rope_to_cache),
    ]


def _comparison(
    rig: Rig, ours: Function, torchs: Function, inputs: Sequence[Tensor], num_bytes: int
) -> Comparison:
    """Ours, torch as it is, and torch compiled, forward."""

    def made(function: Function) -> Run:
        @torch.no_grad()
        def run() -> object:
            return function(*inputs)

        return run

    sides = {
        OURS: lambda: made(ours),
        "torch": lambda: made(torchs),
        "torch.compile": lambda: made(rig.compiled(torchs)),
    }
    return Comparison(sides, TOLERANCE, num_bytes, targets=SHARE)


def _rows(rig: Rig, width: int) -> tuple[Tensor, Tensor]:
    width = size(rig, width, 24)
    return normal(rig, size(rig, ROWS, 5), width), normal(rig, width)


def _norm(rig: Rig, width: int) -> Comparison:
    x, weight = _rows(rig, width)

    def torchs(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weight, EPS)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.norm(x, weight, None, EPS, False)
        return out

    return _comparison(rig, ours, torchs, (x, weight), 2 * x.nbytes)


def _added_norm(rig: Rig) -> Comparison:
    x, weight = _rows(rig, WIDTH)

    def torchs(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return F.rms_norm(total, x.shape[-1:], weight, EPS), total

    def ours(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = torch.ops.tempa.add_norm(x, residual, weight, None, EPS, False)
        return out

    return _comparison(rig, ours, torchs, (x, x.flip(0), weight), 4 * x.nbytes)


def _layer_norm(rig: Rig) -> Comparison:
    x, weight = _rows(rig, WIDTH)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.norm(x, weight, bias, EPS, True)
        return out

    return _comparison(rig, ours, torchs, (x, weight, weight.flip(0)), 2 * x.nbytes)


def _norm_backward(rig: Rig, *, centred: bool) -> Comparison:
    x, weight = _rows(rig, WIDTH)
    dy = x.flip(0)

    def forward(x: Tensor, weight: Tensor) -> Tensor:
        norm = F.layer_norm if centred else F.rms_norm
        return norm(x, x.shape[-1:], weight, eps=EPS)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.norm(x, weight, None, EPS, centred)
        return out

    return _gradients(rig, ours, forward, (x, weight), dy, 3 * x.nbytes)


def _gradients(
    rig: Rig, ours: Function, torchs: Function, inputs: Sequence[Tensor], dy: Tensor, num_bytes: int
) -> Comparison:
    """The backward alone, of a forward that was run once."""

    def made(function: Function) -> Run:
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
        return lambda: torch.autograd.grad(out, leaves, dy, retain_graph=True)

    sides = {
        OURS: lambda: made(ours),
        "torch": lambda: made(torchs),
        "torch.compile": lambda: made(rig.compiled(torchs, repeats_backward=True)),
    }
    return Comparison(sides, TOLERANCE, num_bytes, targets=SHARE)


def _gated(rig: Rig, name: str, function: Callable[[Tensor], Tensor]) -> Comparison:
    x = normal(rig, size(rig, ROWS, 5), size(rig, 2 * 8192, 48))

    def torchs(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return function(gate) * up

    def ours(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.activation(x, name, True)
        return out

    return _comparison(rig, ours, torchs, (x,), x.nbytes * 3 // 2)


def _gated_backward(rig: Rig) -> Comparison:
    x = normal(rig, size(rig, ROWS, 5), size(rig, 2 * 8192, 48))
    dy = normal(rig, len(x), x.shape[1] // 2)

    def torchs(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def ours(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.activation(x, "silu", True)
        return out

    return _gradients(rig, ours, torchs, (x,), dy, x.nbytes * 5 // 2)


def _heads(rig: Rig) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Queries, keys and values as one product leaves them, and the turns of their positions."""
    num_tokens, width = size(rig, ROWS, 5), size(rig, 128, 8)
    qkv = normal(rig, num_tokens, 48, width)
    positions = torch.arange(num_tokens, device=rig.device) % 4096
    turns = ops.rotations(positions, width, max_positions=4096)
    return qkv.split((32, 8, 8), dim=1), turns


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """By real numbers, which torch.compile can fuse."""
    cos, sin = torch.view_as_real(turns).unbind(-1)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def _rope(rig: Rig) -> Comparison:
    (q, _, _), turns = _heads(rig)

    def ours(q: Tensor, turns: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.rope(q, turns, False)
        return out

    return _comparison(rig, ours, _turned, (q, turns), 2 * q.numel() * q.itemsize + turns.nbytes)


def _rope_to_cache(rig: Rig) -> Comparison:
    (q, k, v), turns = _heads(rig)
    num_tokens, heads, width = k.shape
    blocks = -(-num_tokens // 16)
    slots = torch.randperm(16 * blocks, device=rig.device)[:num_tokens]

    def cache() -> ops.LayerCache:
        shape = (2, blocks, heads, 16, width)
        return ops.LayerCache(*torch.zeros(shape, dtype=q.dtype, device=rig.device))

    def torchs(function: Function) -> Run:
        kept = cache()

        @torch.no_grad()
        def run() -> tuple[Tensor, ...]:
            turned_q, turned_k = function(q, turns), function(k, turns)
            kept.write(slots, turned_k, v)
            return turned_q, turned_k, kept.keys, kept.values

        return run

    def ours() -> Run:
        kept = cache()

        @torch.no_grad()
        def run() -> tuple[Tensor, ...]:
            turned = torch.ops.tempa.rope_to_cache(q, k, v, turns, slots, kept.keys, kept.values)
            return *turned, kept.keys, kept.values

        return run

    sides = {
        OURS: ours,
        "torch": lambda: torchs(_turned),
        "torch.compile": lambda: torchs(rig.compiled(_turned)),
    }
    num_bytes = (2 * q.numel() + 5 * k.numel()) * q.itemsize + turns.nbytes + slots.nbytes
    return Comparison(sides, TOLERANCE, num_bytes, targets=SHARE)
