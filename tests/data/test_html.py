"""Text of HTML: what stays, encodings, and pages that nobody wrote by hand."""

import sys
import time

import pytest

from tempa.data.html import html_to_text

pytest.importorskip("resiliparse", reason="the extra html is not installed")

MENU = "<ul><li><a href='/'>Home</a><ul><li><a href='/a'>About us</a></li></ul></li></ul>"
PAGE = f"""<html><head><title>Mills</title><style>p {{ color: red }}</style></head><body>
<header><nav>{MENU}</nav></header>
<main><h1>The mill</h1><p>Salt &amp; pepper, caf&eacute; &#8212; <b>all</b> of it.</p><!-- no -->
<script>var x = "<p>script</p>";</script></main>
<footer>Copyright</footer></body></html>"""


def test_main_content_is_kept_and_menus_scripts_and_styles_go():
    text = html_to_text(PAGE)
    assert text.split("\n\n") == ["The mill", "Salt & pepper, café — all of it."]
    whole = html_to_text(PAGE, main_content=False)
    assert "About us" in whole
    assert "Copyright" in whole
    assert "script" not in whole


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        ("<p>Brücke".encode(), None, "Brücke"),
        ("<p>Brücke".encode(), "iso-8859-1", "Brücke"),  # UTF-8, whatever the server says
        ("<p>Brücke".encode("latin-1"), "ISO-8859-1", "Brücke"),
        ("<p>Brücke".encode("latin-1"), "utf-8", "Brücke"),
        ("<p>Brücke".encode("latin-1"), "no such thing", "Brücke"),
        ("<meta charset=koi8-r><p>мост".encode("koi8-r"), None, "мост"),
        ("<meta charset=koi8-r><p>мост".encode("cp1251"), "windows-1251", "мост"),
        ("<p>橋を渡る".encode("iso-2022-jp"), "iso-2022-jp", "橋を渡る"),
        ("<p>Brücke".encode("utf-16"), None, "Brücke"),
        ("\ufeff<p>é".encode(), None, "é"),
        ("<p>a\ud800b", None, "a?b"),
    ],
)
def test_encodings_are_found(data, encoding, expected):
    assert html_to_text(data, encoding=encoding) == expected


@pytest.mark.parametrize("data", [b"", "", b"<html></html>", b"<script>x</script>", b"<!-- <p>x"])
def test_pages_without_text_are_empty(data):
    assert html_to_text(data) == ""


@pytest.mark.parametrize("tag", ["div", "b", "table", "span", "DIV", "p", "x-y"])
def test_a_megabyte_of_nested_elements_takes_seconds(tag):
    began = time.process_time()
    text = html_to_text(f"<{tag}>" * (1_000_000 // (len(tag) + 2)) + "deep")
    assert text.strip() == "deep"
    assert time.process_time() - began < 30


def test_long_pages_lose_their_menus_too():
    text = html_to_text(PAGE.replace("<h1>", "<div><p>more<br></div>" * 3000 + "<h1>"))
    assert text.count("more") == 3000
    assert "About us" not in text


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resiliparse", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tempa\[html\]'"):
        html_to_text("<p>x")
