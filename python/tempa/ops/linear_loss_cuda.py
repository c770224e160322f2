"""`tempa::linear_logp`, behind the functions of `linear_loss.py` on CUDA; kernels in `cuda/linear_loss*.cu`.

The forward stores no logits. The backward computes them again, and stores their gradient for a range of words
at a time, which two matrix products turn into gradients of hidden states and weights.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempa.ops import cuda_tensors
from tempa.ops.calls import Call, Target
from tempa.ops.cuda_tensors import ELEMENTS, PACK_BYTES, check, check_same, is_aligned
from tempa.ops.tensor_map import TensorMap

DTYPES = (torch.bfloat16, torch.float16)
TOKENS = 128  # of a tile
# Elements of the gradient that are stored at once, 64 MiB, and the words it has at least: narrower products
# are slow.
CHUNK_ELEMENTS = 1 << 25
CHUNK_WORDS = 2048
# What a block does before and after its tiles, in the time of one; not yet measured on a GPU.
START_TILES = 0.5


@dataclass(frozen=True)
class Family:
    """The kernels for a kind of device.

    Attributes:
        source: File in `cuda/`; the entry points are `linear_lse` and `linear_gradient`, and `suffix`.
        suffix: See above.
        words: Of a tile.
        num_threads: Of a block.
        resident: Blocks that a multiprocessor runs at once.
        shared_bytes: Dynamic shared memory of a block.
        depth: Columns of the boxes by which tiles are loaded, or 0 if threads load them.
        takes_turns: Whether a block of the gradient goes through a split of the words; else it has one tile.
    """

    source: str
    suffix: str
    words: int
    num_threads: int
    resident: int
    shared_bytes: int = 0
    depth: int = 0
    takes_turns: bool = False

    @classmethod
    def of(cls, arch: str) -> Family:
        """The kernels for an architecture."""
        return HOPPER if arch == "sm_90a" else AMPERE

    def readable(self, x: Tensor, rows: int) -> Tensor | TensorMap:
        """(N, D) as a kernel takes it, which loads so many rows at once."""
        return TensorMap(x, (rows, self.depth), 128) if self.depth else x

    def words_of_split(self, num_words: int, splits: int) -> int:
        """Words that each split has, in whole tiles; the last may have fewer, or none."""
        return -(-num_words // (self.words * splits)) * self.words


AMPERE = Family("linear_loss.cu", "", 128, 256, resident=2)
# Four stages of 64 columns of the tokens' and the words' tiles, and a KiB for the barriers.
HOPPER = Family(
    "linear_loss_hopper.cu",
    "_hopper",
    *(256, 384),
    resident=1,
    shared_bytes=4 * (TOKENS + 256) * 64 * 2 + 1024,
    depth=64,
    takes_turns=True,
)


@functools.cache
def best_splits(num_token_tiles: int, num_word_tiles: int, resident: int) -> int:
    """Into how many splits words are cut so that blocks end first; the fewest of equals.

    >>> best_splits(64, 16, resident=132)
    2
    """
    splits = np.arange(1, max(num_word_tiles, 1) + 1)
    waves = -(-num_token_tiles * splits // resident)
    return int(splits[np.argmin(waves * (-(-num_word_tiles // splits) + START_TILES))])


def defines(dtype: torch.dtype, *, capped: bool) -> dict[str, str | int]:
    """The macros that the kernels are compiled with."""
    return {"ELEMENT": ELEMENTS[dtype], "CAPPED": int(capped)}


def supports(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take these: 16-bit elements, rows that are a multiple of 16 bytes."""
    return (
        cuda_tensors.has_kernels(hidden)
        and hidden.dtype in DTYPES
        and weight.dtype == hidden.dtype
        and hidden.shape[1] % (PACK_BYTES // hidden.dtype.itemsize) == 0
    )


def lse_call(
    parts: Tensor,
    target_logits: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    target: Target,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Call:
    """What writes the logarithm of the sum of exponentials over parts of the words, and the targets' logits.

    Args:
        parts: (splits, T) float32; split s has words from `s * words_of_split` on.
        target_logits: (T,) float32; where a target is no word, it is left as it is.
        hidden: (T, D), at least one token.
        weight: (V, D).
        targets: (T,) int64.
        target: Where it will run.
        temperature: Divides the logits after the cap.
        softcap: Bound on the logits, if any.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    T, V, D = _sizes(hidden, weight, targets)
    splits = len(parts)
    _check_vector(hidden, parts, (splits, T))
    _check_vector(hidden, target_logits, (T,))
    family = Family.of(target.arch)
    return _call(
        *(family, "linear_lse", hidden.dtype, softcap is not None, -(-T // TOKENS) * splits),
        *(
            parts,
            target_logits,
            family.readable(hidden, TOKENS),
            family.readable(weight, family.words),
            targets,
        ),
        *(T, V, D, family.words_of_split(V, splits)),
        *_scale(temperature, softcap),
    )


def gradient_call(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    upstream: Tensor,
    lse: Tensor,
    words: range,
    *,
    target: Target,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Call:
    """What writes the gradient of the products of hidden states with some words.

    Args:
        gradient: (T, N) like hidden, with N a multiple of 8 that holds the words; the rest becomes zero.
        hidden: (T, D), at least one token.
        weight: (V, D).
        targets: (T,) int64.
        upstream: (T,) float32, gradient of the log-probabilities.
        lse: (T,) float32, from the forward.
        words: Which rows of the weight, at least one.
        target: Where it will run.
        temperature: As in the forward.
        softcap: As in the forward.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    T, V, D = _sizes(hidden, weight, targets)
    check("linear_logp", hidden, gradient)
    _check_vector(hidden, upstream, (T,))
    _check_vector(hidden, lse, (T,))
    stride = padded(len(words), hidden.dtype)
    if gradient.shape != (T, stride) or not 0 <= words.start < words.stop <= V or not is_aligned(gradient):
        raise ValueError(
            f"linear_logp on CUDA: expected a gradient of shape {(T, stride)} for {words} of {V} words, "
            f"got {tuple(gradient.shape)}"
        )
    family = Family.of(target.arch)
    token_tiles, splits = -(-T // TOKENS), -(-len(words) // family.words)
    of_split: tuple[int, ...] = ()
    if family.takes_turns:
        splits = best_splits(token_tiles, splits, family.resident * target.num_multiprocessors)
        of_split = (family.words_of_split(len(words), splits),)
    return _call(
        *(family, "linear_gradient", hidden.dtype, softcap is not None, token_tiles * splits),
        *(gradient, family.readable(hidden, TOKENS), family.readable(weight, family.words)),
        *(targets, upstream, lse, T, words.start, words.stop, D, stride),
        *(*of_split, *_scale(temperature, softcap)),
    )


def _call(
    family: Family, entry: str, dtype: torch.dtype, capped: bool, num_blocks: int, *arguments: Any
) -> Call:
    return Call(
        family.source,
        entry + family.suffix,
        arguments,
        (num_blocks, 1, 1),
        family.num_threads,
        family.shared_bytes,
        tuple(defines(dtype, capped=capped).items()),
    )


def padded(num_words: int, dtype: torch.dtype) -> int:
    """Elements of a row of the gradient: whole packs."""
    pack = PACK_BYTES // dtype.itemsize
    return -(-num_words // pack) * pack


def _sizes(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[int, int, int]:
    check("linear_logp", hidden, weight)
    check_same("linear_logp", hidden, targets, torch.int64)
    if hidden.dtype not in DTYPES:
        raise ValueError(f"linear_logp on CUDA: bfloat16 or float16 is needed, got {hidden.dtype}")
    (T, D), (V, width) = hidden.shape, weight.shape
    if width != D or targets.shape != (T,) or not targets.is_contiguous():
        shapes = [tuple(tensor.shape) for tensor in (hidden, weight, targets)]
        raise ValueError(f"linear_logp on CUDA: hidden states, weight and targets do not fit: {shapes}")
    if D % (PACK_BYTES // hidden.dtype.itemsize) or not is_aligned(hidden, weight):
        raise ValueError(
            f"linear_logp on CUDA: rows of {D} elements are not whole packs of {PACK_BYTES} bytes"
        )
    return T, V, D


def _check_vector(hidden: Tensor, vector: Tensor, shape: tuple[int, ...]) -> None:
    check_same("linear_logp", hidden, vector, torch.float32)
    if vector.shape != shape or not vector.is_contiguous():
        raise ValueError(
            f"linear_logp on CUDA: expected numbers of shape {shape} in one piece, got {tuple(vector.shape)}"
        )


def _scale(temperature: float, softcap: float | None) -> tuple[float, float, float]:
    cap = softcap or 1.0
    return cap, 1 / cap, 1 / temperature


def _forward_cuda(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    hidden, weight, targets = hidden.contiguous(), weight.contiguous(), targets.contiguous()
    T, target = len(hidden), Target.of(hidden.device)
    family = Family.of(target.arch)
    resident = family.resident * target.num_multiprocessors
    splits = best_splits(-(-T // TOKENS), -(-len(weight) // family.words), resident)
    parts = hidden.new_empty(splits, T, dtype=torch.float32)
    # A target that is no word has no probability.
    target_logits = hidden.new_full((T,), torch.nan, dtype=torch.float32)
    if T:
        inputs = (parts, target_logits, hidden, weight, targets)
        lse_call(*inputs, target=target, temperature=temperature, softcap=softcap).launch(hidden.device)
    lse = parts.logsumexp(0)
    return target_logits - lse, lse


def _backward_cuda(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    temperature: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    hidden, weight, targets = hidden.contiguous(), weight.contiguous(), targets.contiguous()
    upstream, lse = upstream.float().contiguous(), lse.contiguous()
    (T, _), V = hidden.shape, len(weight)
    if not T:
        return torch.zeros_like(hidden), torch.zeros_like(weight)
    hidden_grad = torch.zeros_like(hidden, dtype=torch.float32)
    weight_grad = torch.empty_like(weight)
    target = Target.of(hidden.device)
    step = max(CHUNK_WORDS, CHUNK_ELEMENTS // T // CHUNK_WORDS * CHUNK_WORDS)
    for start in range(0, V, step):
        words = range(start, min(start + step, V))
        gradient = hidden.new_empty(T, padded(len(words), hidden.dtype))
        inputs = (hidden, weight, targets, upstream, lse, words)
        call = gradient_call(gradient, *inputs, target=target, temperature=temperature, softcap=softcap)
        call.launch(hidden.device)
        gradient = gradient[:, : len(words)]
        hidden_grad += gradient @ weight[start : words.stop]
        torch.mm(gradient.T, hidden, out=weight_grad[start : words.stop])
    return hidden_grad.to(hidden.dtype), weight_grad


def _logits(hidden: Tensor, weight: Tensor, temperature: float, softcap: float | None) -> Tensor:
    products = hidden @ weight.T
    wide = products.to(torch.promote_types(products.dtype, torch.float32))
    capped = wide if softcap is None else torch.tanh(wide / softcap) * softcap
    return capped / temperature


def _forward_cpu(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    logits = _logits(hidden, weight, temperature, softcap)
    lse = logits.logsumexp(1)
    return logits.gather(1, targets[:, None]).squeeze(1) - lse, lse


def _backward_cpu(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    temperature: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    logits = _logits(hidden, weight, temperature, softcap)
    gradient = -(logits - lse[:, None]).exp()
    gradient.scatter_add_(1, targets[:, None], gradient.new_ones((1, 1)).expand(len(targets), 1))
    gradient *= upstream[:, None] / temperature
    if softcap is not None:
        gradient *= 1 - (logits * (temperature / softcap)).square()
    gradient = gradient.to(weight.dtype)
    return gradient @ weight, gradient.T @ hidden


def _forward_fake(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    del weight, targets, temperature, softcap
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.new_empty(len(hidden), dtype=dtype), hidden.new_empty(len(hidden), dtype=dtype)


def _backward_fake(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    temperature: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    del upstream, targets, lse, temperature, softcap
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, targets, ctx.temperature, ctx.softcap = inputs
    ctx.save_for_backward(hidden, weight, targets, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.tempa.linear_logp_backward(upstream, *ctx.saved_tensors, ctx.temperature, ctx.softcap)
    return *grads, None, None, None


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "linear_logp(Tensor hidden, Tensor weight, Tensor targets, float temperature, float? softcap)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "linear_logp_backward(Tensor upstream, Tensor hidden, Tensor weight, Tensor targets, Tensor lse,"
    " float temperature, float? softcap) -> (Tensor, Tensor)"
)
_library.impl("linear_logp", _forward_cuda, "CUDA")
_library.impl("linear_logp", _forward_cpu, "CPU")
_library.impl("linear_logp_backward", _backward_cuda, "CUDA")
_library.impl("linear_logp_backward", _backward_cpu, "CPU")
torch.library.register_fake("tempa::linear_logp", _forward_fake, lib=_library)
torch.library.register_fake("tempa::linear_logp_backward", _backward_fake, lib=_library)
torch.library.register_autograd("tempa::linear_logp", _gradients, setup_context=_setup_context, lib=_library)
