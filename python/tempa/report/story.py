"""The report of a whole story: the same questions asked of every model, then one chapter for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempa.report.funnel import funnel_table
from tempa.report.page import Markup, join, table, tag, write_page
from tempa.report.plot import Bar, bar_plot


@dataclass(frozen=True)
class Verdict:
    """Whether a stage beat the one before on a measure.

    Attributes:
        claim: What had to be shown, in words.
        title: The measure.
        bars: The scores compared, the stage's own last.
        unit: "%" for shares.
        has_passed: Whether it was shown.
    """

    claim: str
    title: str
    bars: Sequence[Bar]
    has_passed: bool
    unit: str = "%"


@dataclass(frozen=True)
class Chapter:
    """One stage.

    Attributes:
        title: Its heading.
        text: What happens in it, a sentence or two.
        verdicts: What it had to show.
        plots: How it went.
    """

    title: str
    text: str
    verdicts: Sequence[Verdict]
    plots: Sequence[Markup] = ()


@dataclass(frozen=True)
class Story:
    """All that the page shows.

    Attributes:
        title: Its heading.
        lead: One sentence below it.
        models: What each model is called, in the order of training.
        answers: Question to the answer of each model.
        chapters: One for each stage.
        scores: Measure to its text for each model.
        funnel: The report of the corpus, as in its funnel.json.
        facts: Name to value, about the run and the machine.
    """

    title: str
    lead: str
    models: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    chapters: Sequence[Chapter]
    scores: Mapping[str, Sequence[str]]
    funnel: Mapping[str, Any]
    facts: Mapping[str, str]

    @property
    def failures(self) -> list[str]:
        """The claims that were not shown."""
        return [v.claim for chapter in self.chapters for v in chapter.verdicts if not v.has_passed]


def write_story_report(path: Path | str, story: Story) -> Path:
    """Write the page.

    Args:
        path: The file.
        story: What it shows; all its text is escaped.
    """
    body = join(
        [
            tag("h1", story.title),
            tag("p", story.lead),
            *(_asked(question, story.models, replies) for question, replies in story.answers.items()),
            _outcome(story),
            *(_chapter(number_, chapter) for number_, chapter in enumerate(story.chapters, start=1)),
            tag("h2", "All measures, all models"),
            tag("p", "Held-out data; mean and 95% bootstrap interval.", class_="note"),
            table(["", *story.models], [[name, *cells] for name, cells in story.scores.items()]),
            funnel_table(story.funnel),
            tag("h2", "This run"),
            table([], story.facts.items()),
        ]
    )
    return write_page(Path(path), story.title, body)


def _asked(question: str, models: Sequence[str], replies: Sequence[str]) -> Markup:
    cells = [
        tag(
            "div",
            tag("span", model),
            reply or "(nothing)",
            class_="answer",
            style=f"border-color:var(--c{i % 6})",
        )
        for i, (model, reply) in enumerate(zip(models, replies, strict=True))
    ]
    return tag("section", tag("b", question), tag("div", *cells, class_="answers"), class_="ask")


def _outcome(story: Story) -> Markup:
    claims = [verdict for chapter in story.chapters for verdict in chapter.verdicts]
    if story.failures:
        return tag(
            "p", f"{len(story.failures)} of {len(claims)} claims were not shown, see below.", class_="bad"
        )
    return tag("p", f"All {len(claims)} claims below were shown in this run.", class_="good")


def _chapter(number_: int, chapter: Chapter) -> Markup:
    parts = [tag("h2", f"{number_}. {chapter.title}"), tag("p", chapter.text)]
    for verdict in chapter.verdicts:
        mark, class_ = ("✓", "good") if verdict.has_passed else ("✗", "bad")
        top = 1.0 if verdict.unit == "%" else None
        parts.append(tag("h3", tag("span", f"{mark} ", class_=class_), verdict.claim))
        parts.append(bar_plot(verdict.bars, title=verdict.title, unit=verdict.unit, top=top))
    parts += chapter.plots
    return tag("section", *parts)
