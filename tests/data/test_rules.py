"""Normalisation and quality rules, rule by rule, and the report of what they drop."""

import dataclasses
import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tempa import _core
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport
from tempa.data.rules import Edits, Rules, clean, explain, measure, normalize, off_threshold

PROSE = (
    "The river begins in the hills above the town and runs to the sea through fields of barley. In spring it "
    "floods the lower meadows, which is why no house stands there. Farmers have kept the banks with willows "
    "since the days of their grandparents, and children learn to swim below the old mill.\n\n"
    "Two bridges cross it. The older one was built of grey stone by a mason whose name nobody remembers; the "
    "newer carries the railway. Trains stop at the station only twice a day."
)


def verdicts(texts, rules=None):
    """The rule that rejects each text, or None."""
    report = FunnelReport(max_examples=len(texts))
    kept = {
        d.source
        for d in clean((Document(text, str(i)) for i, text in enumerate(texts)), rules, report=report)
    }
    rule_of = {e.source: rule for rule, drop in report.stages[0].dropped.items() for e in drop.examples}
    assert kept.isdisjoint(rule_of)
    return [rule_of.get(str(i)) for i in range(len(texts))]


def only(name, threshold):
    return dataclasses.replace(Rules.none(), **{name: threshold})


def test_the_rules_and_thresholds_are_those_of_the_core_in_its_order():
    core = [(name, default) for name, _, default in _core.quality_rules()]
    assert core == [(field.name, field.default) for field in dataclasses.fields(Rules)]
    assert all(name.startswith(side) for name, side, _ in _core.quality_rules())


def test_the_edits_are_those_of_the_core_and_off_by_default():
    assert _core.line_edits() == [field.name for field in dataclasses.fields(Edits)]
    assert not any(dataclasses.astuple(Edits()))


def test_ordinary_prose_passes():
    assert verdicts([PROSE]) == [None]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_chars", "short"),
        ("min_words", "few but rather complicated expressions " * 3),
        ("max_words", "the and be " * 40_000),
        ("min_mean_word_length", "a b c d e f g " * 10),
        ("max_mean_word_length", "antidisestablishmentarianism " * 60),
        ("max_symbol_ratio", PROSE + " #tag" * 12),
        ("min_alphabetic_words", PROSE + " 12.50 |" * 12),
        ("min_stop_words", "kaksi siltaa ylittää joen vanhempi rakennettiin harmaasta kivestä " * 8),
        ("min_sentences", "the beginning of a page and nothing but that " * 4),
        ("max_noise_words", PROSE + "\nHome\nSIGN IN TO COMMENT\n12 / 40\n3 likes"),
        ("max_bullet_lines", "\n".join(f"- the thing and number {n} of these" for n in range(12))),
        ("max_ellipsis_lines", "\n".join(f"the story and part {n} goes on like this..." for n in range(12))),
        ("min_ended_lines", "\n".join(f"the heading and number {n} without any mark" for n in range(12))),
        ("max_short_lines", "\n".join(f"the line and number {n}." for n in range(20))),
        ("max_top_letter", PROSE + " mmmmmmm mmmm mmmmm MMMMM mmmmmmm" * 20),
        ("max_repeated_chars", PROSE + " " + "-" * 200),
        ("max_lorem_ipsum", PROSE + " Lorem Ipsum dolor sit amet."),
        ("max_duplicate_lines", "\n".join(["the same line and nothing else here."] * 9)),
        ("max_duplicate_line_chars", PROSE + "\n" + PROSE.splitlines()[0]),
        ("max_top_2gram", "the cat and " + "very good " * 60),
        ("max_duplicate_5gram", PROSE + " In short: " + PROSE[: len(PROSE) // 3]),
    ],
)
def test_each_rule_rejects_its_page(rule, text):
    assert verdicts([text], only(rule, getattr(Rules(), rule))) == [rule]
    assert verdicts([text], dataclasses.replace(Rules(), **{rule: off_threshold(rule)})) != [rule]
    assert verdicts([PROSE], only(rule, getattr(Rules(), rule))) == [None]


def test_pages_of_code_are_left_out_only_on_request():
    page = PROSE + " if (x) { y(); }"
    assert verdicts([page]) == [None]
    assert verdicts([page], Rules(max_braces=0)) == ["max_braces"]
    assert verdicts([PROSE], Rules(max_braces=0)) == [None]


def test_the_page_of_thousands_of_m_is_rejected_and_the_rules_that_catch_it_are_separate():
    """Lecture L4: the forum posts behind OLMo's loss spikes."""
    page = " ".join(["mMmM", "MMMMMM", "Mm", "mmmmM"][i % 4] for i in range(800))
    rules = Rules(min_stop_words=0, min_sentences=0)
    assert verdicts([page], rules) == ["max_top_letter"]
    assert verdicts([page], dataclasses.replace(rules, max_top_letter=math.inf)) == ["max_repeated_chars"]


def test_every_rule_that_rejects_is_explained():
    reasons = explain("mMmM { } mMmM", Rules(max_mean_word_length=math.inf, max_braces=0))
    assert list(reasons) == [
        "min_chars",
        "min_words",
        "min_mean_word_length",
        "min_alphabetic_words",
        "min_stop_words",
        "min_sentences",
        "max_braces",
        "max_top_letter",
        "min_ended_lines",
        "max_short_lines",
    ]
    assert reasons["max_braces"] == 2
    assert explain(PROSE) == {}


def is_noise(line):
    """A line that is not prose, in scripts with spaces."""
    words, letters = line.split(), [char for char in line if char.isalpha()]
    return (
        2 * sum(char.isupper() for char in letters) > len(letters)
        or (not letters and any(char.isdigit() for char in line))
        or len(words) == 1
        or (len(words) == 2 and words[0][0].isdigit())
    )


def reference(text):
    """Cheap measures, written as they are defined."""
    words = text.split()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    letters = [char for char in text.lower() if char.isalpha()]
    visible = "".join(words).lower()
    runs = [len(run[0]) for run in re.finditer(r"(.)\1*", visible)]
    share = lambda part, whole: part / whole if whole else 0.0  # noqa: E731
    repeated = [line for i, line in enumerate(lines) if line in lines[:i]]
    stop = {"the", "be", "to", "of", "and", "that", "have", "with"}
    return {
        "min_chars": len(text),
        "min_words": len(words),
        "max_mean_word_length": share(sum(map(len, words)), len(words)),
        "max_symbol_ratio": share(sum(len(re.findall(r"#|\.{3,}", word)) for word in words), len(words)),
        "min_alphabetic_words": share(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        "min_stop_words": len(stop & {word.lower() for word in words}),
        "min_ended_lines": share(sum(line[-1] in ".!?:;\"')" for line in lines), len(lines)),
        "max_short_lines": share(sum(len(line) < 30 for line in lines), len(lines)),
        "min_sentences": len(re.findall(r"[.!?](?=[\s\"')]|$)", text)),
        "max_braces": text.count("{") + text.count("}"),
        "max_noise_words": share(sum(len(line.split()) for line in lines if is_noise(line)), len(words)),
        "max_top_letter": share(max(map(letters.count, letters), default=0), len(letters)),
        "max_repeated_chars": share(sum(run for run in runs if run >= 10), len(visible)),
        "max_duplicate_lines": share(len(repeated), len(lines)),
        "max_duplicate_line_chars": share(sum(map(len, repeated)), sum(map(len, lines))),
    }


@given(
    st.text(alphabet='ab#.!-2{ \nThe,"', max_size=120)
    | st.lists(st.sampled_from(["the", "A", "b c.", "3 likes", "\n"])).map(" ".join)
)
def test_measures_are_those_of_the_reference(text):
    measured = measure(text)
    for name, expected in reference(normalize(text)).items():
        assert measured[name] == pytest.approx(expected), name


def test_verdicts_do_not_depend_on_the_batch():
    texts = [PROSE, "x", PROSE * 2, "mm " * 500, ""] * 3
    assert verdicts(texts) == [verdict for text in texts for verdict in verdicts([text])]


def test_kept_documents_are_normalised_and_keep_their_source():
    documents = [Document("a\r\n\u00a0b \n", "one"), Document("plain", "two")]
    assert list(clean(documents, Rules.none())) == [Document("a\n b", "one"), Document("plain", "two")]


@given(st.lists(st.text(alphabet="ab é漢\r\n\0", max_size=30), max_size=20))
def test_the_report_adds_up_to_the_input(texts):
    report = FunnelReport(max_examples=2)
    documents = [Document(text, str(i)) for i, text in enumerate(texts)]
    kept = list(clean(documents, only("min_chars", 10), report=report))
    (stage,) = report.stages
    dropped = stage.dropped.values()
    assert stage.input.documents == len(texts) == len(kept) + sum(drop.documents for drop in dropped)
    assert stage.input.bytes == sum(len(text.encode()) for text in texts)
    assert stage.output.bytes == sum(len(document.text.encode()) for document in kept)
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes + sum(
        drop.bytes for drop in dropped
    )
    assert all(len(drop.examples) == min(drop.documents, 2) for drop in dropped)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("unended_lines", "Previous post in this long series"),
        ("few_word_lines", "Read it all."),
        ("javascript_lines", "Please enable JavaScript to read the comments."),
        ("policy_lines", "By reading on you accept our Privacy Policy."),
        ("uppercase_lines", "SIGN UP NOW."),
        ("number_lines", "12 / 40"),
        ("counter_lines", "3 likes"),
        ("one_word_lines", "Home"),
    ],
)
def test_each_edit_takes_out_its_line_and_counts_its_bytes(edit, line):
    report = FunnelReport()
    page = Document(f"{line}\r\n\n\n{PROSE}", "page")
    (kept,) = clean([page], Rules.none(), edits=Edits(**{edit: True}), report=report)
    (stage,) = report.stages
    assert kept.text == PROSE
    assert stage.edited_bytes == {edit: len(line) + 1}
    assert stage.to_dict()["edited_bytes"] == stage.edited_bytes
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes + len(line) + 1
    assert edit in str(list(report.table().columns[0].cells))


def test_a_page_of_noisy_lines_is_dropped_before_they_are_taken_out():
    page = Document(PROSE + "\nHome\nLOG IN\n3 likes\nMenu", "page")
    assert list(clean([page], edits=Edits(one_word_lines=True))) == []
    (kept,) = clean([page], Rules(max_noise_words=0.5), edits=Edits(one_word_lines=True))
    assert kept.text == PROSE + "\nLOG IN\n3 likes"


def test_the_report_is_json_and_a_table(tmp_path):
    report = FunnelReport()
    list(clean([Document("x" * 5000, "here"), Document(PROSE, "there")], report=report))
    report.save(tmp_path / "funnel.json")
    assert json.loads((tmp_path / "funnel.json").read_text()) == report.to_dict()
    (example,) = report.to_dict()["stages"][0]["dropped"]["min_words"]["examples"]
    assert example == {"source": "here", "reason": "1, the threshold is 50", "text": "x" * 160}
    console = Console(width=80, file=io.StringIO())
    console.print(report.table())
    assert re.search(r"- min_words +1 +50\.0", console.file.getvalue())


def test_the_rule_that_leaves_nothing_is_named():
    report = FunnelReport()
    list(clean([Document("x", "a")], report=report))
    with pytest.raises(ValueError, match="no document is left; min_chars dropped 1 of 1, set it to 0"):
        report.raise_if_nothing_left("corpus")


@pytest.mark.parametrize("threshold", [-1, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ValueError, match="min_words must be 0 or more, got"):
        Rules(min_words=threshold)
