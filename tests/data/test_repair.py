"""Repair of text, against Python's own codecs and table of entities."""

import html
import html.entities
import json
from dataclasses import asdict

import pytest

from tempa.cli import run
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport
from tempa.data.repair import repair, repair_text
from tempa.data.rules import Rules

SENTENCES = [
    "Überall dort, wo Bären wohnen, größere Äpfel essen und müde „Grüße“ schreiben – für 5 €.",
    "L’été, à l’hôtel, où le garçon naïf a goûté l’œuf… « Déjà ? »",
    "El niño comió jamón; ¿después qué? ¡Mañana será otro año!",
    "São Paulo não é a capital, e os avós já estão lá: ação, coração.",
    "Zażółć gęślą jaźń, a potem idź dalej.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pijamalı hasta yağız şoföre çabucak güvendi.",
    "Съешь же ещё этих мягких французских булок.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを、日本語の文章。",
    "我能吞下玻璃而不伤身体。",
    "다람쥐 헌 쳇바퀴에 타고파.",
    "“Don’t,” she said — ‘it’s 20°C’ • ™ 😀",
]


def misread(text, encoding):
    """UTF-8 read as another encoding; a byte without a character is that of Latin-1, as in browsers."""

    def char(byte):
        return bytes([byte]).decode(encoding, "replace").replace("\ufffd", chr(byte))

    return "".join(map(char, text.encode()))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_was_misread_once_or_twice_comes_back(sentence, encoding):
    once = misread(sentence, encoding)
    assert repair_text(once) == sentence
    assert repair_text(misread(once, encoding)) == sentence
    assert repair_text(sentence) == sentence


def test_entities_are_those_of_html():
    names = [*html.entities.name2codepoint, "apos", "#39", "#x2014", "#8364", "#150", "#X41", "#9"]
    for name in set(names) - {"lt"}:
        # Between letters, so that nothing is taken for UTF-8 that was misread.
        assert repair_text(f"x&{name};x") == html.unescape(f"x&{name};x"), name


def test_texts_about_html_keep_their_entities():
    assert repair_text("write &lt; for <") == "write &lt; for <"
    assert repair_text("AT&T, a&b; x?a=1&copy=2 &#0; &#x110000;") == "AT&T, a&b; x?a=1&copy=2 &#0; &#x110000;"


def test_entities_that_were_escaped_often_are_decoded_in_one_go():
    assert repair_text("&" + "amp;" * 1_000_000 + "eacute;") == "é"


def test_the_report_counts_repairs_and_adds_up():
    report = FunnelReport()
    documents = [Document("cafÃ© &amp; thÃ©", "a"), Document("café", "b")]
    assert [document.text for document in repair(documents, report=report)] == ["café & thé", "café"]
    (stage,) = report.stages
    assert stage.replaced == {"entity": 1, "misread": 2}
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes


def test_the_command_repairs_on_request(tmp_path):
    pages, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    pages.write_text(json.dumps({"text": "cafÃ©"}) + "\n")
    rules = "".join(f"{name} = {value}\n" for name, value in asdict(Rules.none()).items())
    (tmp_path / "c.toml").write_text(f"[rules]\n{rules}")
    command = ["data", "clean", str(tmp_path / "c.toml"), str(pages), "--out", str(out)]
    assert run([*command, "--repair"]) == 0
    assert json.loads(out.read_text())["text"] == "café"
    assert run([*command, "--overwrite"]) == 0
    assert json.loads(out.read_text())["text"] == "cafÃ©"
