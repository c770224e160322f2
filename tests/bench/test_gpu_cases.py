"""Every case of the GPU bench, on the CPU with small tensors: no mistake waits for the hour with a GPU."""

from __future__ import annotations

import re

import pytest
from pretended import MODULES, pretend_modules

from gpu.comparison import OURS
from gpu.measure import rows_of
from gpu.sections import SECTIONS

CEILINGS = {"copy": 3e12, "read": 3e12, "gemm": 8e14}
CASES = [(name, case) for name, section in SECTIONS.items() for case in section.cases()]
# Peers that need a GPU, and how they say so.
NOT_HERE = {
    "torch cuDNN": "No available kernel|No viable backend",
    "torch varlen_attn": "_flash_attention_forward|CPU",
    "FlexAttention": "does not support backward on CPU",
    "FlashInfer": "have one scale for all|no greedy draws",
}
# It is compiled on a GPU.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def test_names_of_cases_are_unique() -> None:
    names = [(section, case.name) for section, case in CASES]
    assert len(set(names)) == len(names)
    assert all(any(case.is_quick for name, case in CASES if name == section) for section in SECTIONS)


@pytest.mark.parametrize(("section", "case"), CASES, ids=[f"{name}: {case.name}" for name, case in CASES])
def test_a_case_runs_and_ours_equals_its_peers(section, case, rig, monkeypatch, request) -> None:
    if section == "sampling":
        request.getfixturevalue("simulated_draws")
    # Not for all: transformers would find them.
    pretend_modules(monkeypatch, MODULES.get(section, {}))
    rows = list(rows_of(rig, section, case, CEILINGS))
    assert rows[0].side == OURS
    assert [row for row in rows if row.status == "FAIL"] == [], rows
    assert rows[0].median_s
    for row in rows[1:]:
        if row.status != "ok":
            assert re.search(NOT_HERE.get(row.side, "^ModuleNotFoundError"), row.note), row
    assert len({row.side for row in rows}) == len(rows)
