"""`tempa chat show`, run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tempa import cli
from tempa.cli import tokens
from tempa.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    Tokenizer.train(["hello there, how are you? fine. " * 9], vocab_size=300).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def show(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert cli.run(["chat", "show", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_each_token_has_its_mask(tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(
        capsys, "--tokenizer", tokenizer, "--message", "user:hello", "--message", "assistant:fine: yes"
    )
    rows = [line.split("\t") for line in shown.splitlines() if "\t" in line]
    assert "".join(text for _, _, text in rows) == "<|user|>hello<|end|><|assistant|>fine: yes<|end|>"
    assert "".join(text for mask, _, text in rows if mask == "1") == "fine: yes<|end|>"
    assert f"{len(rows)} tokens, {sum(mask == '1' for mask, *_ in rows)} trained" in shown


def test_files_of_chats_are_shown_up_to_the_limit(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    (tmp_path / "chats.jsonl").write_text((json.dumps(chat) + "\n") * 5, encoding="utf-8")
    shown = show(capsys, tmp_path / "chats.jsonl", "--tokenizer", tokenizer, "--limit", 2)
    assert shown.count("<|user|>") == 2


def test_the_prompt_ends_with_the_assistant(tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(capsys, "--tokenizer", tokenizer, "--message", "user:hi", "--prompt")
    assert "<|assistant|>\n" in shown


def test_a_terminal_shows_trained_tokens_in_green(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        tokens, "Console", lambda: Console(force_terminal=True, color_system="truecolor", width=80)
    )
    shown = show(
        capsys, "--tokenizer", tokenizer, "--message", "user:hello", "--message", "assistant:é\nfine"
    )
    green = "\x1b[30;48;2;149;213;178m"
    assert f"{green}\\xc3" in shown
    assert "⏎" in shown
    assert green not in shown[: shown.index("<|assistant|>")]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "give either a FILE of chats, or --message"),
        (["--message", "hello"], "'hello' is not role:content"),
        (["--message", "tool:hello"], 'message 0: unknown role "tool"'),
    ],
)
def test_wrong_messages_are_named(
    argv: list[str], reason: str, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["chat", "show", "--tokenizer", str(tokenizer), *argv]) == 1
    assert reason in capsys.readouterr().err
