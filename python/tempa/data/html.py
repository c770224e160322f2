"""Text of pages of HTML, through resiliparse: main content, entities, encodings.

Any bytes give a text; nothing of a page makes this fail or take more than about linear time.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

# Elements within elements from which on a page's main content is not looked for: that takes the square of it.
_MAX_NESTING = 1000
# Tags but those of elements without an end, and of those that end where the next one begins.
_FLAT = "area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|param|p|source|td|th|tr|wbr"
_TAG = re.compile(rf"<(/?)(?!(?:{_FLAT})\b)([a-z]+)", re.IGNORECASE)


def html_to_text(data: bytes | str, *, main_content: bool = True, encoding: str | None = None) -> str:
    """Extract what a reader sees of a page: paragraphs and lists, without markup and scripts.

    Bytes that are UTF-8 are read so, whatever they are called. Others are of `encoding`, else of what the
    page itself says, else of what they look like.

    Args:
        data: The page.
        main_content: Leave out menus, headers, footers and the like. Pages with more than 1,000 elements
            within one another are taken whole.
        encoding: What the server called the encoding of the bytes; a name that is not known does not count.

    Raises:
        ModuleNotFoundError: If resiliparse is not installed.

    >>> html_to_text("<nav><a href='/'>Home</a></nav><p>Salt &amp; pepper.</p><script>x()</script>")
    'Salt & pepper.'
    """
    _check_installed()
    from resiliparse.extract.html2text import extract_plain_text

    html = data if isinstance(data, str) else _decoded(data, encoding)
    has_focus = main_content and _nesting(html) <= _MAX_NESTING
    # A lone surrogate is no text.
    text: str = extract_plain_text(html.encode("utf-8", "replace").decode(), main_content=has_focus)
    return text


def extractor() -> str:
    """What extracts text here, by name and version: another one may give other texts.

    Raises:
        ModuleNotFoundError: If resiliparse is not installed.
    """
    _check_installed()
    from importlib.metadata import version

    return f"resiliparse {version('resiliparse')}"


def _check_installed() -> None:
    try:
        import resiliparse  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("text of HTML needs resiliparse: pip install 'tempa[html]'") from None


def _decoded(data: bytes, encoding: str | None) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    # Encodings of escape sequences are ASCII too.
    if not data.isascii():
        with suppress(UnicodeDecodeError):
            return data.decode("utf-8-sig")
    known = map_encoding_to_html5(encoding, fallback_utf8=False) if encoding else None
    found = known or detect_encoding(data, from_html_meta=True) or "utf-8"
    text: str = bytes_to_str(data, found, errors="replace")
    return text


def _nesting(html: str) -> int:
    """How deep elements are within one another, going by their tags."""
    if html.count("<") <= _MAX_NESTING:
        return 0
    opened: Counter[str] = Counter()
    depth = deepest = 0
    for end, name in _TAG.findall(html):
        name = name.lower()
        if not end:
            opened[name] += 1
            depth += 1
            deepest = max(deepest, depth)
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
    return deepest
