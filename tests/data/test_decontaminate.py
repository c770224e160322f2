"""Items of evaluation sets in documents, against all windows of words."""

import gzip
import json

import pytest

from tempa.cli import run
from tempa.data.decontaminate import Contamination, ContaminationReport, EvalSet, decontaminate
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport

QUESTION = "How many of the seven bridges did the baker cross before the river froze"
ANSWER = "She crossed three of them and then she turned back home"
SHORT = "How many bridges are there"


@pytest.fixture
def quiz():
    items = [f"{QUESTION}\n{ANSWER}", SHORT, "第一題：城裡有幾座橋，河水有多深？"]
    return EvalSet("quiz", [Document(text, f"quiz:{i}") for i, text in enumerate(items)])


def pages(*texts):
    return [Document(text, f"page {i}") for i, text in enumerate(texts)]


def sources(documents):
    return [document.source for document in documents]


def test_items_are_found_in_any_case_and_punctuation(quiz):
    clean = "The baker did cross a river before. " * 20
    dirty = [
        f"{clean}\n\n{QUESTION.upper()}?\n{clean}",
        f"... {ANSWER.replace(' ', '  ')}, {ANSWER}",
        "甲：第一題 城裡有幾座橋 河水有多深 乙",
    ]
    found, report = ContaminationReport(), FunnelReport()
    kept = decontaminate(pages(clean, *dirty), [quiz], Contamination(ngram=11), found=found, report=report)
    assert sources(kept) == ["page 0"]
    (task,) = found.tasks
    assert (task.num_items, task.num_short, task.documents) == (3, 1, 3)
    assert task.hits["quiz:0"].documents == 2
    assert task.hits["quiz:0"].span_words == 14
    assert task.hits["quiz:0"].examples[0].text == QUESTION.upper()
    (stage,) = report.stages
    assert stage.dropped["quiz"].documents == 3
    assert stage.input.bytes == stage.output.bytes + stage.dropped["quiz"].bytes


def test_short_items_are_looked_for_only_if_asked(quiz):
    page = f"We asked: {SHORT}?"
    assert sources(decontaminate(pages(page), [quiz])) == ["page 0"]
    assert sources(decontaminate(pages(page), [quiz], Contamination(min_words=5))) == []


def test_cutting_leaves_the_rest_and_adds_up(quiz):
    report = FunnelReport()
    texts = [f"Before. {QUESTION}? After, more words.", QUESTION, "nothing"]
    kept = list(decontaminate(pages(*texts), [quiz], Contamination(action="cut", margin=1), report=report))
    assert [page.text for page in kept] == [", more words.", "nothing"]
    (stage,) = report.stages
    dropped = stage.dropped["quiz"].bytes
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes + dropped


def test_span_and_share_raise_the_bar(quiz):
    page = pages(QUESTION)
    for settings, is_kept in [
        (Contamination(min_span=14), False),
        (Contamination(min_span=15), True),
        (Contamination(min_share=0.15), False),
        (Contamination(min_share=0.2), True),
    ]:
        assert bool(sources(decontaminate(page, [quiz], settings))) == is_kept, settings


@pytest.mark.parametrize(
    "change", [{"ngram": 0}, {"min_words": 14}, {"min_span": -1}, {"min_share": 2}, {"action": "burn"}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Contamination(**change)


def test_sets_that_cannot_be_found_are_refused(quiz):
    with pytest.raises(ValueError, match="8 words or more"):
        decontaminate([], [EvalSet("small", [Document(SHORT, "small:1")])])
    with pytest.raises(ValueError, match="different names, got quiz, quiz"):
        decontaminate([], [quiz, quiz])


def test_command_reads_fields_by_name_and_writes_both_reports(tmp_path, capsys):
    with gzip.open(tmp_path / "quiz.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": 7, "prompt": QUESTION, "answer": ANSWER}) + "\n")
    rows = [{"text": f"{ANSWER} {ANSWER} {QUESTION}"}, {"text": "nothing to see"}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "decontaminate", str(tmp_path / "pages.jsonl"), "--out", str(tmp_path / "clean.jsonl")]
    assert run([*words, "--against", f"{tmp_path / 'quiz.jsonl.gz'}:prompt,answer"]) == 0
    assert "quiz" in capsys.readouterr().out
    assert json.loads((tmp_path / "clean.jsonl").read_text())["text"] == "nothing to see"
    (task,) = json.loads((tmp_path / "clean.contamination.json").read_text())["tasks"]
    assert task["name"] == "quiz"
    assert [(hit["documents"], hit["span_words"]) for hit in task["hits"]] == [(1, 14)]
    assert run([*words, "--against", str(tmp_path / "quiz.jsonl.gz")]) != 0
    assert "no field 'question'; the fields are id, prompt, answer" in capsys.readouterr().err


def test_a_text_file_is_one_item(tmp_path):
    (tmp_path / "exam.v2.txt").write_text(QUESTION)
    exam = EvalSet.read(tmp_path / "exam.v2.txt")
    assert (exam.name, [item.text for item in exam.items]) == ("exam", [QUESTION])


def test_real_items_are_found_in_themselves_and_not_in_others(shared_data):
    test = EvalSet.read(shared_data / "gsm8k-test.jsonl")
    found = ContaminationReport()
    kept = list(decontaminate(test.items, [test], found=found))
    assert sources(kept) == []
    assert len(found.tasks[0].hits) == len(test.items) - found.tasks[0].num_short
    train = EvalSet.read(shared_data / "gsm8k-train.jsonl")
    assert len(list(decontaminate(train.items, [test], Contamination(min_share=0.5)))) == len(train.items)
