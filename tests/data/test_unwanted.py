"""Lists of phrases and URLs: beside `re`, thresholds, and what the report says."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa import _core
from tempa.cli import run
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport
from tempa.data.rules import Rules
from tempa.data.unwanted import Unwanted, drop_phrases, drop_unwanted, drop_urls, mask_phrases, read_list

PHRASES = ["ass", "bad day", "b", "a$$", "дурак"]


def pattern(phrase):
    before = r"(?<!\w)" if phrase[0].isalnum() else ""
    return before + re.escape(phrase) + (r"(?!\w)" if phrase[-1].isalnum() else "")


# Python's alternatives are tried in order, so the longest comes first.
PATTERN = re.compile("|".join(map(pattern, sorted(PHRASES, key=len, reverse=True))), re.IGNORECASE)


def documents(*texts):
    return [Document(text, str(i)) for i, text in enumerate(texts)]


@given(st.lists(st.sampled_from(["ass", "Bad", " ", "day", "b", "a", "$$", "_", "ДУРАК", ".", "é"])))
def test_phrases_are_those_of_re(parts):
    text = "".join(parts)
    masked = [document.text for document in mask_phrases(documents(text), PHRASES, "#")]
    assert masked == [PATTERN.sub("#", text)]


def test_documents_go_by_number_or_share():
    texts = documents("one bad word in six words", "bad bad", "bad", "good", "这是坏话吗")
    report = FunnelReport()
    kept = drop_phrases(texts, ["bad", "坏话"], max_phrases=1, max_share=0.4, report=report)
    assert [document.source for document in kept] == ["0", "3", "4"]
    (stage,) = report.stages
    assert {rule: dropped.documents for rule, dropped in stage.dropped.items()} == {
        "max_phrases": 1,
        "max_share": 1,
    }
    assert stage.dropped["max_phrases"].examples[0].reason == "2, the threshold is 1"
    assert stage.input.bytes == stage.output.bytes + sum(dropped.bytes for dropped in stage.dropped.values())


def test_masks_are_counted_and_the_report_adds_up():
    report = FunnelReport()
    kept = list(mask_phrases(documents("a bad, bad day", "fine"), ["bad"], "[removed]", report=report))
    assert [document.text for document in kept] == ["a [removed], [removed] day", "fine"]
    (stage,) = report.stages
    assert stage.replaced == {"phrase": 2}
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes


def test_pages_of_a_domain_and_below_a_url_go():
    urls = ["https://a.bad.org/x", "http://fine.org/forum/1", "http://fine.org/", "pages.txt:7"]
    report = FunnelReport()
    kept = drop_urls([Document(url, url) for url in urls], ["bad.org", "fine.org/forum"], report=report)
    assert [document.source for document in kept] == urls[2:]
    reasons = [example.reason for example in report.stages[0].dropped["unwanted_url"].examples]
    assert reasons == ["below bad.org", "below fine.org/forum"]


def test_lists_are_read_without_comments(tmp_path):
    (tmp_path / "list").write_text("# swear words\nbad\n\n#tag\r\n  two words \n")
    assert read_list([tmp_path / "list"]) == ["bad", "#tag", "two words"]
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ValueError, match="empty: the list has no entries"):
        read_list([tmp_path / "empty"])
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="latin: not UTF-8 at byte 3"):
        read_list([tmp_path / "latin"])


def test_wrong_entries_and_thresholds_are_refused():
    with pytest.raises(ValueError, match='no space at its ends, got " a"'):
        _core.UnwantedPhrases([" a"])
    with pytest.raises(ValueError, match='expected a domain or a URL, got "two words"'):
        drop_urls([], ["two words"])
    with pytest.raises(ValueError, match="max_share must not be negative"):
        Unwanted(max_share=-1)


def test_the_command_drops_and_masks(tmp_path, capsys):
    words, pages, out = (tmp_path / name for name in ("words", "in.jsonl", "out.jsonl"))
    words.write_text("bad\n")
    pages.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a bad day", "a good day")))
    (tmp_path / "c.toml").write_text(
        "[rules]\n" + "".join(f"{name} = {value}\n" for name, value in asdict(Rules.none()).items())
    )
    command = ["data", "clean", str(tmp_path / "c.toml"), str(pages), "--out", str(out)]
    assert run([*command, "--unwanted.phrases", str(words)]) == 0
    assert "max_phrases" in capsys.readouterr().out
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["a good day"]
    assert run([*command, "--unwanted.phrases", str(words), "--unwanted.mask", "***", "--overwrite"]) == 0
    assert json.loads(out.read_text().splitlines()[0])["text"] == "a *** day"


def test_no_lists_change_nothing():
    report = FunnelReport()
    texts = documents("bad")
    assert list(drop_unwanted(texts, Unwanted(), report=report)) == texts
    assert report.stages == []
