from __future__ import annotations

import pytest

from tempa import cli
from tempa.bench.items import CEILINGS, ITEMS


@pytest.mark.parametrize("item", [item for item in ITEMS if item not in CEILINGS])
def test_an_item_runs_and_states_its_work(item) -> None:
    work = ITEMS[item]()
    work.run()
    assert work.amount > 0
    assert (work.needs > 0) == (work.ceiling is not None)
    assert work.ceiling in (None, *CEILINGS)


def test_one_item_is_shown_beside_the_ceilings(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.run(["bench", "rms_norm", "--seconds", "0.01"]) == 0
    machine, head, *rows = capsys.readouterr().out.splitlines()
    assert "cores" in machine
    assert head.split()[:3] == ["item", "case", "rate"]
    assert [row.split()[0] for row in rows] == ["copy", "gemm", "rms_norm"]
    assert rows[-1].rstrip().endswith("% of copy")
