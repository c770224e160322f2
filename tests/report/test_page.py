"""Pages: escaping and structure."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.report.page import Markup, escape, join, number, table, tag, write_page

VOID = {"meta", "br", "hr", "img"}


class Reader(HTMLParser):
    """Collects tags and text, and fails where tags are not nested."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text: list[str] = []
        self.stack: list[str] = []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        assert not any(key.startswith("on") for key, _ in attrs)
        if name not in VOID:
            self.stack.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.stack.pop() == name

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.stack
    return reader


@given(st.text())
def test_any_text_stays_text(text: str) -> None:
    reader = read(tag("p", text, title=text))
    assert reader.tags == ["p"]
    visible = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    assert "".join(reader.text) == visible


def test_markup_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "1 < 2")) == "<p><b>1 &lt; 2</b></p>"
    assert escape(Markup("<i>")) == "<i>"
    assert join(["<", Markup("<br>")]) == "&lt;<br>"


def test_control_characters_and_direction_overrides_are_shown_as_replacements() -> None:
    assert escape("a\x00\u202eb") == "a\ufffd\ufffdb"


def test_a_page_is_one_file_without_scripts_or_links(tmp_path: Path) -> None:
    page = write_page(tmp_path / "report.html", "a </title> title", tag("p", "<script>alert(1)</script>"))
    text = page.read_text("utf-8")
    reader = read(text.removeprefix("<!doctype html>"))
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_table_has_a_cell_for_each_value() -> None:
    reader = read(table(["a", "b"], [[1, "<"], [2, ">"]]))
    assert reader.tags.count("td") == 4
    assert reader.tags.count("th") == 2


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.01234567, "0.01235"), (999.94, "999.9"), (1e6, "1,000,000")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_number_that_is_none_is_named() -> None:
    assert number(float("nan")) == "nan"
