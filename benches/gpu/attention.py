"""Attention over whole sequences, forward and backward, beside torch's backends and what is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu import attention_peers as peers
from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size

TOKENS = 16384
LENGTHS = (16384, 8192, 4096, 2048, 1024)
# Elements of all query heads of a token.
WIDTH = 2048
# bfloat16 rounds the result on either side; gradients are sums of rounded products.
TOLERANCE = {"forward": 1e-2, "backward": 2e-2}
FORWARD = Target("rate", 370e12, 580e12)
BACKWARD = Target("rate", 320e12, 505e12)


@dataclass(frozen=True)
class Shape:
    """What is attended to: `lengths` of sequences that lie one after the other."""

    lengths: tuple[int, ...]
    num_heads: int
    num_key_heads: int
    head_dim: int
    causal: bool

    @property
    def num_tokens(self) -> int:
        """Of all sequences."""
        return sum(self.lengths)

    @property
    def is_even(self) -> bool:
        """Whether all sequences have one length."""
        return len(set(self.lengths)) == 1

    @property
    def flops(self) -> float:
        """Of the forward, as the papers count: two products, half of them where causal."""
        pairs = sum(length**2 for length in self.lengths) / (2 if self.causal else 1)
        return 4 * self.num_heads * self.head_dim * pairs


def cases() -> list[Case]:
    """The longest first: there the targets are, and time may run out."""
    listed = []
    for length in LENGTHS:
        for head_dim in (128, 64):
            for causal in (True, False):
                for step in ("forward", "backward"):
                    listed.append(_even(step, length, head_dim, causal, 1, length in (16384, 2048)))
    for step in ("forward", "backward"):
        listed.append(_even(step, 8192, 128, True, 4, True))
        listed += [_packed(step, head_dim) for head_dim in (128, 64)]
    # Within one length, a case of each kind comes before the next length.
    return sorted(listed, key=lambda case: not case.is_quick)


def _even(step: str, length: int, head_dim: int, causal: bool, group: int, is_quick: bool) -> Case:
    def build(rig: Rig) -> Comparison:
        heads = size(rig, WIDTH, 2 * group * size(rig, head_dim, 16)) // size(rig, head_dim, 16)
        one, total = size(rig, length, 24), size(rig, TOKENS, 48)
        shape = Shape((one,) * (total // one), heads, heads // group, size(rig, head_dim, 16), causal)
        targets = ()
        if head_dim == 128 and length == 16384 and group == 1:
            targets = (FORWARD if step == "forward" else BACKWARD,)
        return _comparison(rig, shape, step, targets, with_flex=length == 16384)

    words = [step, f"{length} tokens", f"heads of {head_dim}", "causal" if causal else "all pairs"]
    words += [f"{group} query heads to a key head"] if group > 1 else []
    return Case(", ".join(words), build, is_quick=is_quick)


def _packed(step: str, head_dim: int) -> Case:
    def build(rig: Rig) -> Comparison:
        # Documents as they come: most are short, most tokens are in long ones.
        lengths = (7, 20, 5) if rig.is_tiny else (200,) * 8 + (800,) * 6 + (2000,) * 3 + (3984,)
        width = size(rig, head_dim, 16)
        heads = size(rig, WIDTH, 4 * width) // width
        return _comparison(rig, Shape(lengths, heads, heads, width, causal=True), step, (), with_flex=True)

    return Case(f"{step}, packed documents, heads of {head_dim}, causal", build, is_quick=True)


def _comparison(
    rig: Rig, shape: Shape, step: str, targets: tuple[Target, ...], *, with_flex: bool
) -> Comparison:
    q = normal(rig, shape.num_tokens, shape.num_heads, shape.head_dim)
    k, v = (
        normal(rig, shape.num_tokens, shape.num_key_heads, shape.head_dim, scale=scale) for scale in (1, 1.01)
    )
    dout = normal(rig, shape.num_tokens, shape.num_heads, shape.head_dim, scale=0.99)
    ways: dict[str, Callable[[Rig, Shape], peers.Attend]] = {OURS: _ours, **peers.available_to(shape)}
    if not with_flex:
        # Each shape is compiled anew, which takes longer than all else of a case.
        ways.pop("FlexAttention", None)
    make = _forward if step == "forward" else _backward
    return Comparison(
        {name: make(rig, shape, way, q, k, v, dout) for name, way in ways.items()},
        TOLERANCE[step],
        shape.flops * (1.0 if step == "forward" else 2.5),
        unit="FLOP/s",
        ceiling="gemm",
        pace="warm",
        targets=targets,
    )


def _ours(rig: Rig, shape: Shape) -> peers.Attend:
    bounds = peers.bounds(rig, shape)
    right = 0 if shape.causal else None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = torch.ops.tempa.attention(q, k, v, bounds, bounds, right=right)[0]
        return out

    return attend


def _forward(
    rig: Rig,
    shape: Shape,
    way: Callable[[Rig, Shape], peers.Attend],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _: Tensor,
) -> Callable[[], Run]:
    def make() -> Run:
        attend = way(rig, shape)

        @torch.no_grad()
        def run() -> Tensor:
            return attend(q, k, v)

        return run

    return make


def _backward(
    rig: Rig,
    shape: Shape,
    way: Callable[[Rig, Shape], peers.Attend],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
) -> Callable[[], Run]:
    def make() -> Run:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = way(rig, shape)(*leaves)
        return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)

    return make
