"""Lines and paragraphs that come again, against a set of strings."""

import numpy as np
import pytest

from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.funnel import FunnelReport
from tempa.data.pieces import Pieces, drop_repeated


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    lines = np.array([f"  line number {i} 漢字 " for i in range(400)])
    return ["\n".join(rng.choice(lines, 30)) for _ in range(60)]


def known_lines(texts):
    seen = set()
    counts = []
    for text in texts:
        lines = [line.strip() for line in text.split("\n")]
        counts.append(sum(line in seen or seen.add(line) is not None for line in lines))
    return counts


@pytest.mark.parametrize("capacity", [0, 1000])
def test_repeated_lines_are_those_a_set_has_seen(texts, capacity):
    settings = Pieces(min_bytes=1, capacity=capacity, false_positives=1e-9)
    assert settings.seen().count(texts).tolist() == known_lines(texts)


def test_the_result_does_not_depend_on_batches(texts):
    whole, parts = Pieces(min_bytes=1).seen(), Pieces(min_bytes=1).seen()
    kept, counts = whole.drop(texts)
    halves = [parts.drop(texts[:17]), parts.drop(texts[17:])]
    assert kept == halves[0][0] + halves[1][0]
    assert counts.tolist() == [*halves[0][1], *halves[1][1]]
    assert whole.num_bytes > 0


def test_the_report_adds_up_and_short_pieces_stay():
    report = FunnelReport()
    pages = ["a long enough line\n}\n}", "a long enough line", "new\n}"]
    kept = list(
        drop_repeated((Document(page, "here") for page in pages), Pieces(min_bytes=10), report=report)
    )
    assert [document.text for document in kept] == [pages[0], pages[2]]
    (stage,) = report.stages
    assert stage.input.documents == 3
    assert stage.dropped["repeated"].documents == 1
    assert stage.input.bytes == stage.output.bytes + stage.dropped["repeated"].bytes


def test_pages_of_one_url_are_copies():
    urls = ["http://a.org/x/?utm_source=y", "https://www.a.org/x#top", "https://a.org/X", "notes.txt"]
    pages = [Document(f"page {i}", url) for i, url in enumerate(urls)]
    kept = dedup(pages, Duplicates(urls=True, exact=False, near=False))
    assert [document.text for document in kept] == ["page 0", "page 2", "page 3"]


@pytest.mark.parametrize("change", [{"min_bytes": -1}, {"capacity": -1}, {"false_positives": 0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Pieces(**change)
