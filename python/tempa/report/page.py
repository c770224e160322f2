"""HTML pages that need nothing but themselves: one file, no script, no network, light and dark.

A `Markup` is HTML that is known to be safe; every other string is escaped where it enters a page, so text
that a model wrote cannot become a tag. Use `tag` and `join` to build, never string formatting.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib import resources
from pathlib import Path


class Markup(str):
    """A string that already is HTML."""

    __slots__ = ()


def escape(content: object) -> Markup:
    """HTML that shows the content as it is; a `Markup` stays what it is.

    >>> escape("<b> & co")
    '&lt;b&gt; &amp; co'
    """
    if isinstance(content, Markup):
        return content
    visible = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in str(content))
    return Markup(html.escape(visible))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """The parts one after the other, each escaped unless it is markup."""
    return Markup(separator.join(escape(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element; `class_` is written for `class`, `_` in other names becomes `-`.

    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(content)}</{name}>")


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Markup:
    """A table that scrolls sideways on a narrow screen instead of widening the page."""
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *(tag("th", cell) for cell in head))), tag("tbody", *body)),
        class_="scroll",
    )


def write_page(path: Path, title: str, body: Markup) -> Path:
    """Write a whole page; a reader sees the old file or the new one, never half of it."""
    style = Markup(resources.files(__package__).joinpath("page.css").read_text("utf-8"))
    head = join(
        [
            Markup(
                '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            ),
            # Nothing may be loaded or run, whatever text the page shows.
            Markup(
                '<meta http-equiv="Content-Security-Policy" '
                "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            ),
            Markup('<meta name="color-scheme" content="light dark">'),
            tag("title", title),
            tag("style", style),
        ]
    )
    text = f'<!doctype html>\n<html lang="en">{tag("head", head)}{tag("body", tag("main", body))}</html>\n'
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
    return path


def number(value: float, digits: int = 4) -> str:
    """A number for people: four significant digits, thousands grouped.

    >>> number(1234567), number(0.123456), number(2)
    ('1,234,567', '0.1235', '2')
    """
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
