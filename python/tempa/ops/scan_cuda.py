"""`tempa::discounted_sums`, behind `reward_to_go` and `gae` of `tempa.align`; kernel in `cuda/scan.cu`.

Registered for CUDA, CPU (the compiled core) and fake tensors. What it sums is constant: there is no gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa import _core
from tempa.ops import nvrtc
from tempa.ops.cuda_tensors import check_same

SOURCE = "scan.cu"
# Responses of a block. Few: a block ends with its longest.
WARPS = 4
# Steps of 32 tokens whose loads are under way together.
STEPS = 4


def defines(*, has_values: bool) -> dict[str, str | int]:
    """The macros that `scan.cu` is compiled with."""
    return {"VALUES": int(has_values), "STEPS": STEPS, "WARPS": WARPS}


def sums_into(
    sums: Tensor,
    returns: Tensor | None,
    rewards: Tensor,
    values: Tensor | None,
    last_values: Tensor | None,
    offsets: Tensor,
    *,
    gamma: float,
    lam: float,
) -> None:
    """Write the discounted sums of each response.

    Args:
        sums: (T,) float32.
        returns: (T,) float32, sums plus values; with values only.
        rewards: (T,) float32, responses one after the other.
        values: (T,) float32; then what is summed is `reward + gamma * next value - value`. None for rewards.
        last_values: (n,) float32, the next value of each last token; 0 when None.
        offsets: (n + 1,) int64, response boundaries from 0 to T, which are not checked.
        gamma: Discount of the next value.
        lam: Times gamma, the discount of what comes after a token.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    if (returns is None) != (values is None) or (values is None and last_values is not None):
        raise ValueError("discounted_sums on CUDA: returns and last values come with values only")
    check_same("discounted_sums", rewards, offsets, torch.int64)
    if offsets.ndim != 1 or not len(offsets) or not offsets.is_contiguous():
        raise ValueError(
            f"discounted_sums on CUDA: expected n + 1 offsets in one piece, got {tuple(offsets.shape)}"
        )
    num_tokens, num_responses = rewards.numel(), len(offsets) - 1
    for tensor, length in (
        (sums, num_tokens),
        (returns, num_tokens),
        (rewards, num_tokens),
        (values, num_tokens),
        (last_values, num_responses),
    ):
        if tensor is None:
            continue
        check_same("discounted_sums", rewards, tensor, torch.float32)
        if tensor.shape != (length,) or not tensor.is_contiguous():
            raise ValueError(
                f"discounted_sums on CUDA: expected {length} numbers in one piece, got {tuple(tensor.shape)}"
            )
    if num_responses:
        nvrtc.launch(
            _kernel(values is not None, rewards.device),
            *(sums, returns, rewards, values, last_values, offsets),
            num_responses,
            gamma,
            gamma * lam,
            grid=-(-num_responses // WARPS),
            block=WARPS * 32,
        )


@functools.cache
def _kernel(has_values: bool, device: torch.device) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, "discounted_sums", device, defines(has_values=has_values))


def _sums_cuda(
    rewards: Tensor,
    values: Tensor | None,
    last_values: Tensor | None,
    offsets: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    rewards = rewards.float().contiguous()
    values, last_values = (None if t is None else t.float().contiguous() for t in (values, last_values))
    sums = torch.empty_like(rewards)
    returns = None if values is None else torch.empty_like(rewards)
    sums_into(sums, returns, rewards, values, last_values, offsets.contiguous(), gamma=gamma, lam=lam)
    return sums, rewards.new_empty(0) if returns is None else returns


def _sums_cpu(
    rewards: Tensor,
    values: Tensor | None,
    last_values: Tensor | None,
    offsets: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    bounds = offsets.contiguous().numpy()
    if values is None:
        sums = torch.from_numpy(_core.reward_to_go(_array(rewards), bounds, gamma * lam))
        return sums, sums.new_empty(0)
    last = np.zeros(len(offsets) - 1, np.float32) if last_values is None else _array(last_values)
    advantages, returns = _core.gae(_array(rewards), _array(values), bounds, gamma, lam, last)
    return torch.from_numpy(advantages), torch.from_numpy(returns)


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().contiguous().numpy()
    return array


def _sums_fake(
    rewards: Tensor,
    values: Tensor | None,
    last_values: Tensor | None,
    offsets: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    del last_values, offsets, gamma, lam
    sums = rewards.new_empty(rewards.shape, dtype=torch.float32)
    return sums, sums.new_empty(0 if values is None else len(rewards))


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "discounted_sums(Tensor rewards, Tensor? values, Tensor? last_values, Tensor offsets, float gamma,"
    " float lam) -> (Tensor, Tensor)"
)
_library.impl("discounted_sums", _sums_cuda, "CUDA")
_library.impl("discounted_sums", _sums_cpu, "CPU")
torch.library.register_fake("tempa::discounted_sums", _sums_fake, lib=_library)
