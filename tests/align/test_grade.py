import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tempa.align.grade import Task, answers_equal, exact_answer, extract_answer, grade


def task(answer):
    return Task((), answer)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("#### -5", "-5", 1),
        ("#### -5", "5", 0),
        ("10-5=5", "5", 1),
        ("10-5=5", "-5", 0),
        ("#### 1,000", "1000", 1),
        ("the total is $1,000.", "1,000.00", 1),
        ("#### 3.50", "3.5", 1),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1),
        ("#### 0", "0", 1),
        ("#### New York", "new york", 1),
        ("I do not know", "0", 0),
        ("", "", 0),
    ],
)
def test_trap_l15_answers_are_read_as_people_write_them(text, answer, score):
    assert exact_answer(text, task(answer)) == score
    assert grade([text], [answer]).tolist() == [score]


def test_the_worked_outcome_example():
    """Ch4 T8: both responses end in 35, and an outcome reward cannot tell them apart."""
    flawless = "Multiples of 5 ... 30 + 10 = 40 < 50, 35 + 10 = 45 < 50, 40 + 10 = 50.\n#### 35"
    flawed = "It is below 50 - 10 = 40, and 5 * 7 = 36, nearly.\n#### 35"
    assert [exact_answer(text, task("35")) for text in (flawless, flawed)] == [1, 1]


def test_gsm8k_answers_follow_the_marker(shared_data):
    """Ch3 B12: the marker's number is what the data set's own pattern finds."""
    for line in (shared_data / "gsm8k-test.jsonl").read_text().splitlines():
        answer = json.loads(line)["answer"]
        expected = re.search(r"#### (-?[0-9.,]+)", answer).group(1)
        assert extract_answer(answer) == expected


@given(st.fractions())
def test_equality_is_exact(value):
    text = f"{value.numerator}/{value.denominator}"
    assert answers_equal(text, str(value))
    assert not answers_equal(text, f"{value.numerator + 1}/{value.denominator}")


def test_unknown_extractions_are_refused():
    with pytest.raises(ValueError, match="known: marker, boxed, number, any"):
        extract_answer("1", "last")
