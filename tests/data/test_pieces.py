"""Lines and paragraphs that come again, against a set of strings."""

from itertools import pairwise

import numpy as np
import pytest

from tempa import _core
from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.funnel import FunnelReport
from tempa.data.pieces import Pieces, drop_repeated, drop_stretches


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


def suffix_array_ranges(texts, length):
    """Ranges of bytes by sorting all suffixes: their first `length` bytes if another has them before."""
    places = [
        (text.encode()[at:], number, at)
        for number, text in enumerate(texts)
        for at in range(len(text.encode()))
    ]
    places = sorted(place for place in places if len(place[0]) >= length)
    marked = [np.zeros(len(text.encode()), bool) for text in texts]
    while places:
        same = [place for place in places if place[0][:length] == places[0][0][:length]]
        for _, number, at in sorted(same, key=lambda place: place[1:])[1:]:
            marked[number][at : at + length] = True
        places = places[len(same) :]
    return [np.flatnonzero(np.diff(mask, prepend=0, append=0)).reshape(-1, 2).tolist() for mask in marked]


def test_stretches_are_those_of_a_suffix_array():
    rng = np.random.default_rng(1)
    source = "".join(rng.choice(list("ab cd"), 300))
    cuts = [(int(start), int(stop)) for start, stop in np.sort(rng.integers(0, 300, (12, 2)))]
    texts = [source[start:stop] + "|" + source[stop // 2 : stop] for start, stop in cuts]
    ranges, offsets = _core.repeated_stretches(texts, 20)
    found = [ranges[start:stop].tolist() for start, stop in pairwise(offsets)]
    assert found == suffix_array_ranges(texts, 20)


def test_stretches_are_cut_between_characters():
    """Trap B5: removal by bytes cut Chinese characters in two."""
    texts = [
        "版权所有，保留一切权利。未经许可不得转载。",
        "甲乙：版权所有，保留一切权利。未经许可不得转载。丙",
    ]
    report = FunnelReport()
    kept = drop_stretches([Document(text, "here") for text in texts], 40, report=report)
    assert [document.text for document in kept] == [texts[0], "甲乙：丙"]
    (stage,) = report.stages
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes
