"""Tools: the calculator against Python's fractions and the annotations of GSM8K, and what hooks put in."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tempa.engine import Engine, Request, Sampling
from tempa.engine.strategies import calculator, evaluate, tool
from tempa.model import Transformer
from tempa.tokenizer import Tokenizer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]


def test_gsm8k_annotations_evaluate_to_their_results(shared_data: Path) -> None:
    """Ch3 B13: the calculator agrees with the annotators to two decimals, but knows no `//`."""
    wrong, total = [], 0
    for line in (shared_data / "gsm8k-train.jsonl").read_text().splitlines():
        for expression, result in re.findall(r"<<([^<>]*)=([^<>=]*)>>", json.loads(line)["answer"]):
            total += 1
            try:
                close = abs(evaluate(expression) - evaluate(result)) <= Fraction(1, 100)
            except ValueError:
                close = False
            if not close:
                wrong.append(expression)
    assert total > 20_000
    assert wrong == ["560//10", "180//3"]


numbers = st.one_of(st.integers(0, 999).map(str), st.decimals(0, 99, places=2).map(str))
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda three: "({} {} {})".format(*three)),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=8,
)


@given(expressions)
def test_the_calculator_equals_exact_python_arithmetic(expression: str) -> None:
    exact = re.sub(r"[\d.]+", lambda number: f"Fraction('{number.group()}')", expression)
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="division by zero"):
            evaluate(expression)
    else:
        assert evaluate(expression) == expected


@pytest.mark.parametrize("expression", ["", "1 +", "__import__('os')", "2**9", "9" * 40, "(" * 500, "1/0"])
def test_the_calculator_refuses_what_it_cannot_do(expression: str) -> None:
    with pytest.raises(ValueError, match=r"expected|bits|nests|zero"):
        evaluate(expression)


def test_a_tool_answers_behind_its_marker() -> None:
    tokenizer = Tokenizer.from_characters(string.printable)
    hook = tool(tokenizer, "<", ">", calculator)

    def answer(text: str) -> str:
        return tokenizer.decode(hook(tokenizer.encode(text)))

    assert answer("it is <(2+3)*4>") == "20"
    assert answer("so <48/2.5>") == "19.2"
    assert answer("<1> and <2/3>") == "0.6666666667"
    assert answer("<1/10000000>") == "1e-07"
    assert answer("<1/0>").startswith("error: ")
    assert answer("<import os>").startswith("error: ")
    assert [answer(text) for text in ("<1+1", "1+1>", "<1> ", "")] == [""] * 4
    with pytest.raises(ValueError, match="markers must not be empty"):
        tool(tokenizer, "", ">", calculator)


def test_a_model_that_asks_for_a_tool_reads_its_answer(
    build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    engine, [prompt] = Engine(build(), tokenizer), prompts_of(6)
    sampling = Sampling(max_new_tokens=20, seed=3)
    [[free]] = engine.generate([prompt], sampling)
    start = free.text[2]
    end = next(letter for letter in free.text[3:] if letter != start)
    hook = tool(tokenizer, start, end, lambda inside: 2 * (inside or "a"))
    [[helped]] = engine.generate([Request(prompt=prompt, sampling=sampling, hook=hook)])
    put_in = np.isnan(helped.logps)
    assert put_in.any()
    first = int(put_in.argmax())
    assert helped.ids[:first].tolist() == free.ids[:first].tolist()
    assert helped.text[first - 1] == end
