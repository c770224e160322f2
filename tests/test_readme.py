"""What README and the docs tell people to type works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tempa import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
TEXTS = {name: page.read_text(encoding="utf-8") for name, page in zip(NAMES, PAGES, strict=True)}


def _python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in NAMES if _python_blocks(TEXTS[name])])
def test_the_python_of_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in _python_blocks(TEXTS[name]):
        exec(compile(block, name, "exec"), names)


def _typed(text: str) -> list[str]:
    """Lines of shell blocks and of inline code."""
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", text)
    return [line.strip() for part in (*blocks, *indented, *inline) for line in part.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_targets_exist(name) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in _typed(TEXTS[name]):
        for command in re.findall(r"(?:^|\s)tempa ([a-z]+)(?=$|\s)", line):
            assert command in cli.COMMANDS, line
        for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
            assert target in targets, line


@pytest.mark.parametrize("name", NAMES)
def test_links_between_pages_lead_somewhere(name) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", TEXTS[name]):
        assert (folder / target).exists(), target


def test_every_page_of_the_docs_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", TEXTS["docs/index.md"]))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
