"""Every case of the GPU bench, on the CPU with small tensors: no mistake waits for the hour with a GPU."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pretended import PretendedRig, pretend_modules

from gpu.comparison import OURS
from gpu.measure import rows_of
from gpu.sections import SECTIONS
from tempa.ops import reference

CEILINGS = {"copy": 3e12, "read": 3e12, "gemm": 8e14}
CASES = [(name, case) for name, section in SECTIONS.items() for case in section.cases()]
# Peers that need a GPU, and how they say so.
NOT_HERE = {
    "torch cuDNN": "No available kernel|No viable backend",
    "torch varlen_attn": "_flash_attention_forward|CPU",
    "FlexAttention": "does not support backward on CPU",
}
# It is compiled on a GPU.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@pytest.fixture(autouse=True)
def _peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, **_
    ) -> torch.Tensor:
        assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
        wide = (x.float() for x in (q, k, v))
        out, _ = reference.packed_attention(*wide, cu_seqlens_q, cu_seqlens_k, right=0 if causal else None)
        return out.to(q.dtype)

    modules: dict[str, dict[str, Any]] = {
        name: {"flash_attn_varlen_func": flash_attn_varlen_func}
        for name in ("flash_attn_interface", "flash_attn.cute")
    }
    modules["flash_attn"] = {}
    pretend_modules(monkeypatch, modules)


def test_names_of_cases_are_unique() -> None:
    names = [(section, case.name) for section, case in CASES]
    assert len(set(names)) == len(names)
    assert all(any(case.is_quick for name, case in CASES if name == section) for section in SECTIONS)


@pytest.mark.parametrize(("section", "case"), CASES, ids=[f"{name}: {case.name}" for name, case in CASES])
def test_a_case_runs_and_ours_equals_its_peers(section, case, rig: PretendedRig) -> None:
    rows = list(rows_of(rig, section, case, CEILINGS))
    assert rows[0].side == OURS
    assert (rows[0].status, rows[0].note) == ("ok", "")
    assert rows[0].median_s
    for row in rows[1:]:
        if row.status != "ok":
            assert re.search(NOT_HERE.get(row.side, "^ModuleNotFoundError"), row.note), row
    assert len({row.side for row in rows}) == len(rows)
