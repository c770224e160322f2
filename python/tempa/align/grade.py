"""Verifiable rewards: find the answer in a text and compare it, exactly.

A reward is any `function(text, task) -> float`. `exact_answer` is the one that most tasks need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.chat import Message

Extraction = Literal["marker", "boxed", "number", "any"]


@dataclass(frozen=True)
class Task:
    """A conversation to answer and what the answer must be.

    Attributes:
        messages: The conversation, ending with the user's turn.
        answer: The expected answer, without the reasoning.
    """

    messages: tuple[Message, ...]
    answer: str


class Reward(Protocol):
    """Scores one response; any function with this signature is one."""

    def __call__(self, text: str, task: Task) -> float:
        """The score of `text` as a response to `task`."""
        ...


def extract_answer(text: str, how: Extraction = "any") -> str | None:
    r"""The answer a text gives, or None (ch3 B12, ch4 N8).

    Args:
        text: A response.
        how: "marker" looks after the last `####`, "boxed" inside the last `\boxed{}`, "number" takes the last
            number, "any" the first of these that is there.

    >>> extract_answer("9 * 2 = 18, so\n#### $1,018 in all")
    '1,018'
    """
    return _core.extract_answer(text, how)


def answers_equal(a: str, b: str) -> bool:
    """Whether two answers are the same number, exactly, or the same words if neither is a number.

    >>> answers_equal("1,000", "1000.0"), answers_equal("-5", "5"), answers_equal("New  York", "new york")
    (True, False, True)
    """
    return _core.answers_equal(a, b)


def grade(texts: Sequence[str], answers: Sequence[str], how: Extraction = "any") -> NDArray[np.float32]:
    """1 for each text whose answer is the expected one, else 0; in parallel.

    >>> grade(["#### 3.50", "I give up"], ["3.5", "3.5"]).tolist()
    [1.0, 0.0]
    """
    return _core.grade(list(texts), list(answers), how)


def same_words(text: str, task: Task) -> float:
    """1 if `text` is the task's answer, without regard to case, punctuation, articles and spacing, else 0.

    >>> same_words("The Blue Lake.", Task((), "blue lake"))
    1.0
    """
    return float(_bare(text) == _bare(task.answer))


def _bare(text: str) -> list[str]:
    words = re.sub(r"[^\w\s]", "", text.casefold()).split()
    return [word for word in words if word not in ("a", "an", "the")]


def exact_answer(text: str, task: Task) -> float:
    """1 if the answer in `text` is the task's, else 0 (ch4 T1)."""
    answer = extract_answer(text)
    return float(answer is not None and answers_equal(answer, task.answer))
