"""A rig without a GPU: every case runs on the CPU with small tensors, and no clock is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import reference

# As an H100 says of itself.
PROPERTIES = SimpleNamespace(
    multi_processor_count=132,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
)


class PretendedRig:
    """Calls what it is to time, and says that it took a microsecond."""

    device = torch.device("cpu")
    is_tiny = True

    def __init__(self) -> None:
        self.num_timed = 0

    def times(self, run: Callable[[], object], pace: str, rounds: int) -> list[float]:
        run()
        self.num_timed += 1
        return [1e-6 * (1 + i / rounds) for i in range(rounds)]

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        return 1 << 20

    def compiled(self, function: Callable[..., Any], *, repeats_backward: bool = False) -> Callable[..., Any]:
        return function

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        return run


def _flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = False,
    **_: Any,
) -> Tensor:
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    wide = (x.float() for x in (q, k, v))
    out, _ = reference.packed_attention(*wide, cu_seqlens_q, cu_seqlens_k, right=0 if causal else None)
    return out.to(q.dtype)


class _Ragged:
    """FlashInfer's attention over whole sequences."""

    def __init__(self, workspace: Tensor, layout: str) -> None:
        assert layout == "NHD"

    def plan(self, starts_q, starts_k, heads, kv_heads, width, *, causal, q_data_type) -> None:
        self.options = {"cu_seqlens_q": starts_q, "cu_seqlens_k": starts_k, "causal": causal}
        self.longest = int(starts_q.diff().max())

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _flash_attn_varlen_func(
            q, k, v, max_seqlen_q=self.longest, max_seqlen_k=self.longest, **self.options
        )


class _Paged:
    """FlashInfer's attention to a paged cache."""

    def __init__(self, workspace: Tensor, layout: str, *, use_tensor_cores: bool) -> None:
        assert layout == "HND"

    def plan(self, starts, pages, last, heads, kv_heads, width, page_size, *, q_data_type) -> None:
        self.tables = torch.stack(pages.split(starts.diff().tolist()))
        self.lengths = (starts.diff() - 1).long() * page_size + last

    def run(self, q: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
        keys, values = (pool.float() for pool in cache)
        starts = torch.arange(len(q) + 1)
        out = reference.paged_attention(q.float(), keys, values, self.tables, self.lengths, starts)
        return out.to(q.dtype)


def _drawn(probs: Tensor, *cuts: float) -> Tensor:
    assert all(isinstance(cut, int | float) for cut in cuts)
    return torch.multinomial(probs, 1)


class _LigerLoss:
    def __init__(self, *, reduction: str) -> None:
        self.reduction = reduction

    def __call__(self, weight: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets, reduction=self.reduction)


_FLASH_ATTN = {"flash_attn_varlen_func": _flash_attn_varlen_func}
_FLASHINFER = {
    "BatchPrefillWithRaggedKVCacheWrapper": _Ragged,
    "BatchDecodeWithPagedKVCacheWrapper": _Paged,
}
# Peers that are not installed here, by section: their functions take what theirs take.
MODULES: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "flash_attn": {},
        "flash_attn.cute": _FLASH_ATTN,
        "flash_attn_interface": _FLASH_ATTN,
        "flashinfer": _FLASHINFER,
    },
    "decode": {"flashinfer": _FLASHINFER},
    "sampling": {
        "flashinfer": {},
        "flashinfer.sampling": {
            "softmax": lambda logits, temperature: (logits / temperature).softmax(-1),
            "sampling_from_probs": _drawn,
            "top_p_sampling_from_probs": _drawn,
            "top_k_top_p_sampling_from_probs": _drawn,
        },
    },
    "loss": {
        "liger_kernel": {},
        "liger_kernel.transformers": {"LigerFusedLinearCrossEntropyLoss": _LigerLoss},
    },
}


def pretend_modules(monkeypatch: pytest.MonkeyPatch, modules: dict[str, dict[str, Any]]) -> None:
    """Let them be imported."""
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
