"""Tools: a marked text is handed to a function, and what it returns stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from tempa import _core
from tempa.engine.request import Hook
from tempa.tokenizer import Tokenizer

# Tokens back that an opening marker is looked for.
_REACH = 256


def tool(
    tokenizer: Tokenizer, start: str, end: str, function: Callable[[str], str], *, after: str = ""
) -> Hook:
    """A hook that calls a function with the text between two markers (ch3 B13).

    Args:
        tokenizer: Of the engine.
        start: Comes before the text.
        end: Comes after it; when it is complete, the function is called.
        function: Returns what is put in. An error is put in too, so that the model can go on.
        after: Put in behind that.

    >>> tokenizer = Tokenizer.from_characters("<>=0123456789+ ")
    >>> hook = tool(tokenizer, "<", ">", calculator, after=" ")
    >>> tokenizer.decode(hook(tokenizer.encode("17 + 25 = <17+25>")))
    '42 '
    """
    if not start or not end:
        raise ValueError(f"markers must not be empty, got {start!r} and {end!r}")

    def hook(ids: list[int]) -> list[int]:
        text = tokenizer.decode(ids[-_REACH:])
        if not text.endswith(end):
            return []
        _, found, inside = text[: -len(end)].rpartition(start)
        if not found or end in inside:
            return []
        try:
            result = function(inside)
        except ValueError as error:
            result = f"error: {error}"
        return list(tokenizer.encode(result + after))

    return hook


def evaluate(expression: str) -> Fraction:
    """The exact value of numbers, `+ - * /` and parentheses.

    Safe for text from a model: nothing else is evaluated, and sizes have limits.

    Raises:
        ValueError: If the expression is malformed, divides by 0 or is too large.

    >>> evaluate("48/2.5")
    Fraction(96, 5)
    """
    return Fraction(*_core.evaluate_arithmetic(expression))


def calculator(expression: str) -> str:
    """`evaluate` for `tool`: exact if the value is whole, else to ten digits.

    >>> calculator("48/2.5"), calculator("1/3")
    ('19.2', '0.3333333333')
    """
    value = evaluate(expression)
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}"
