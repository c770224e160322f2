"""Cleaning: one spelling for every text, then quality rules that reject whole documents.

The verdict on a document depends on its text and the thresholds alone, for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes


@dataclass(frozen=True)
class Rules:
    """The thresholds of the quality rules; 0 switches a `min` rule off, infinity a `max` rule.

    Rules are tried in this order, and the first that rejects is reported. A value equal to the threshold is
    accepted. The defaults are published ones, for web pages in English: Gopher (Rae et al., 2021), C4
    (Raffel et al., 2020), RefinedWeb (Penedo et al., 2023), FineWeb (Penedo et al., 2024). Shares are between
    0 and 1.
    """

    min_chars: float = 100
    """Characters."""
    min_words: float = 50
    """Words: runs of characters between spaces; in scripts without spaces, characters. Gopher."""
    max_words: float = 100_000
    """Gopher."""
    min_mean_word_length: float = 3
    """Characters a word, in scripts with spaces. Gopher."""
    max_mean_word_length: float = 10
    """Gopher."""
    max_symbol_ratio: float = 0.1
    """Hash signs and ellipses a word. Gopher."""
    min_alphabetic_words: float = 0.8
    """Share of words with a letter. Gopher."""
    min_stop_words: float = 2
    """Different words of: the, be, to, of, and, that, have, with. English only. Gopher."""
    min_sentences: float = 3
    """Sentence marks at the end of a word, also inside closing quotes. C4."""
    max_braces: float = math.inf
    """Curly brackets. C4 has 0, which leaves out nearly all code; off by default, as in FineWeb."""
    max_top_letter: float = 0.4
    """Share of the most frequent letter among the letters. Pages of one letter (OLMo's loss spikes)."""
    max_repeated_chars: float = 0.2
    """Share of characters in runs of 10 or more equal ones, spaces apart. The same pages."""
    max_bullet_lines: float = 0.9
    """Share of lines that begin with a bullet. Gopher."""
    max_ellipsis_lines: float = 0.3
    """Share of lines that end with an ellipsis. Gopher."""
    min_ended_lines: float = 0.12
    """Share of lines that end with a sentence mark or a closing quote. FineWeb."""
    max_short_lines: float = 0.67
    """Share of lines of fewer than 30 characters. FineWeb."""
    max_noise_words: float = 0.05
    """Share of words in lines of one word, mostly capitals, numbers or a counter ("3 likes"). RefinedWeb."""
    max_lorem_ipsum: float = 0
    """Times the filler text occurs. C4."""
    max_duplicate_lines: float = 0.3
    """Share of lines that occurred before on the page. Gopher, as are all below but the next."""
    max_duplicate_line_chars: float = 0.1
    """Share of characters in such lines. FineWeb; Gopher has 0.2."""
    max_duplicate_paragraphs: float = 0.3
    """Share of paragraphs that occurred before on the page: lines without a blank one between them."""
    max_duplicate_paragraph_chars: float = 0.2
    """Share of characters in such paragraphs."""
    max_top_2gram: float = 0.2
    """Share of characters in the most frequent pair of words, if it occurs twice."""
    max_top_3gram: float = 0.18
    """In the most frequent three words."""
    max_top_4gram: float = 0.16
    """In the most frequent four words."""
    max_duplicate_5gram: float = 0.15
    """Share of characters in any five words that occurred before."""
    max_duplicate_6gram: float = 0.14
    """In any six words."""
    max_duplicate_7gram: float = 0.13
    """In any seven words."""
    max_duplicate_8gram: float = 0.12
    """In any eight words."""
    max_duplicate_9gram: float = 0.11
    """In any nine words."""
    max_duplicate_10gram: float = 0.10
    """In any ten words."""

    def __post_init__(self) -> None:
        for name, threshold in asdict(self).items():
            if not threshold >= 0:
                raise ValueError(f"{name} must be 0 or more, got {threshold}")

    @classmethod
    def none(cls) -> Rules:
        """No rule at all: only normalisation is left.

        >>> Rules.none().min_words, Rules.none().max_words
        (0.0, inf)
        """
        return cls(**{name: off_threshold(name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Edits:
    """Which lines are taken out of documents before the rules judge what is left; all off by default.

    Tried in this order; the first that takes out a line counts its bytes. The first four are those of C4
    (Raffel et al., 2020), the others the line-wise corrections of RefinedWeb (Penedo et al., 2023), which
    drops a document instead if they take more than 5% of its words: that is `Rules.max_noise_words`, tried
    before them.
    """

    unended_lines: bool = False
    """Lines that do not end with a sentence mark or a quotation mark behind it, or end with three dots."""
    few_word_lines: bool = False
    """Lines of fewer than five words."""
    javascript_lines: bool = False
    """Lines with the word "javascript"."""
    policy_lines: bool = False
    """Lines about terms of use, privacy policies and cookies."""
    uppercase_lines: bool = False
    """Lines with more capitals than other letters."""
    number_lines: bool = False
    """Lines with digits and no letters."""
    counter_lines: bool = False
    """Lines of a number and a word, as in "3 likes"."""
    one_word_lines: bool = False
    """Lines of one word."""


def off_threshold(rule: str) -> float:
    """The threshold that switches a rule off."""
    return 0.0 if rule.startswith("min_") else math.inf


def measure(text: str) -> dict[str, float]:
    """What each rule measures on a text, to find thresholds.

    >>> measure("one two two")["min_words"]
    3.0
    """
    return dict(zip(Rules.__dataclass_fields__, _core.measure_text(normalize(text)), strict=True))


def explain(text: str, rules: Rules | None = None) -> dict[str, float]:
    """Every rule that rejects a text, not only the first, with what it measures.

    >>> explain("mMmM MM m", Rules(min_chars=0, max_top_letter=0.5))["max_top_letter"]
    1.0
    """
    thresholds = asdict(Rules() if rules is None else rules)
    return {
        rule: value
        for rule, value in measure(text).items()
        if (value < thresholds[rule] if rule.startswith("min_") else value > thresholds[rule])
    }


def normalize(text: str) -> str:
    r"""A text in one spelling; its words stay as they are.

    Line ends become line feeds, Unicode spaces the ASCII space; spaces at line ends go, and more than one
    blank line in a row becomes one. Control characters, soft hyphens, byte order marks and overrides of the
    writing direction go. Letters and accents are composed (NFC).

    >>> normalize("Cafe\u0301 \r\n\r\n\r\nau\u00a0lait")
    'Café\n\nau lait'
    """
    return _core.normalize_text(text)


def clean(
    documents: Iterable[Document],
    rules: Rules | None = None,
    *,
    edits: Edits | None = None,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    """Normalise documents, take lines out of them, and drop those that a rule rejects.

    Args:
        documents: Read once, a few megabytes at a time.
        rules: The thresholds, the published ones when None.
        edits: The lines to take out, none when None.
        report: Gets a stage named "clean".

    Returns:
        The documents that pass, normalised, in their order; they are cleaned while they are taken.

    >>> from dataclasses import replace
    >>> documents = [Document("a fine day ", "diary"), Document("MMMMmmmm mMmM", "forum")]
    >>> list(clean(documents, replace(Rules.none(), max_top_letter=0.4)))
    [Document(text='a fine day', source='diary')]
    """
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    stage = (report or FunnelReport()).stage("clean")
    return _kept(documents, asdict(rules or Rules()), asdict(edits or Edits()), stage)


def _kept(
    documents: Iterable[Document], rules: dict[str, float], edits: dict[str, bool], stage: Stage
) -> Iterator[Document]:
    thresholds = list(rules.items())
    for batch in in_batches(documents):
        texts = [document.text for document in batch]
        left, verdicts, values, removed = _core.clean_texts(texts, list(rules.values()), list(edits.values()))
        sizes = [utf8_bytes(text) for text in texts]
        for i, document in enumerate(batch):
            if verdicts[i] >= 0:
                rule, threshold = thresholds[verdicts[i]]
                stage.drop(rule, document, sizes[i], f"{values[i]:.4g}, the threshold is {threshold:g}")
                continue
            text = left[i]
            if text is None:
                stage.keep(sizes[i])
                yield document
            else:
                by_edit = {edit: size for edit, size in zip(edits, removed[i].tolist(), strict=True) if size}
                shorter = sizes[i] - utf8_bytes(text)
                stage.keep(sizes[i], shorter - sum(by_edit.values()), by_edit)
                yield Document(text, document.source)
