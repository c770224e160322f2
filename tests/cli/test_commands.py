"""The command line as a whole: help, unknown words, errors in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tempa import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys) -> None:
    try:
        status = cli.run([name, "--help"])
    except SystemExit as stop:  # the parser of options leaves this way
        status = stop.code
    assert status in (0, None)
    assert f"tempa {name}" in capsys.readouterr().out


def test_help_lists_every_command(capsys) -> None:
    assert cli.run([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)


def test_an_unknown_command_suggests_the_nearest(capsys) -> None:
    assert cli.run(["pretrian"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


def test_an_expected_error_is_one_line_and_exit_status_1(capsys) -> None:
    assert cli.run(["bench", "nothing"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("tempa bench: unknown item 'nothing'; choose from copy, gemm")
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_a_traceback_can_be_asked_for(monkeypatch) -> None:
    monkeypatch.setenv("TEMPA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown item"):
        cli.run(["bench", "nothing"])


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_reader_that_leaves_is_no_error(options) -> None:
    command = [sys.executable, *options, "-m", "tempa", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
