from __future__ import annotations

from pathlib import Path

import pytest

from tempa import cli
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer, load_model, save_model
from tempa.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer.train(["the quick brown fox"], vocab_size=270)
    path = tmp_path_factory.mktemp("generate") / "model"
    save_model(path, Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, width=32, depth=1)), tokenizer)
    return path


def run(directory: Path, *words: str) -> int:
    return cli.run(["generate", "--model", str(directory), *words, "--max-new-tokens", "12"])


def test_a_prompt_is_completed_with_the_text_of_the_engine(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "--prompt", "the", "--seed", "4", "--temperature", "1") == 0
    model, tokenizer = load_model(directory)
    assert tokenizer is not None
    sampling = Sampling(max_new_tokens=12, seed=4, stop_ids=(tokenizer.eot_id,))
    [[completion]] = Engine(model, tokenizer).generate([tokenizer.encode("the")], sampling)
    assert capsys.readouterr().out == completion.text + "\n"


@pytest.mark.parametrize(
    "words", [["--chat", "hi"], ["--chat", "hi", "--system", "Be brief."], ["--prompt", ""]]
)
def test_several_samples_are_listed_with_their_seeds(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(directory, *words, "--n", "2", "--seed", "7") == 0
    out = capsys.readouterr().out
    assert "--- 1 of 2, seed 7" in out
    assert "--- 2 of 2, seed 8" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a", "--top-p", "2"], "top_p must be above 0 and at most 1, got 2"),
        (["--prompt", "a " * 2000], "leaves no room for a new one: the model takes 1024"),
    ],
)
def test_misuse_is_one_line_that_names_the_remedy(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(directory, *words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --prompt TEXT or --chat TEXT"),
        (["--prompt", "a", "--chat", "b"], "give either --prompt TEXT or --chat TEXT"),
        (["--prompt", "a", "--system", "b"], "--system goes with --chat"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as status:
        run(Path("nowhere"), *words)
    assert status.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "bare", Transformer(ModelConfig(vocab_size=9, width=8, depth=1, num_heads=2)))
    assert run(tmp_path / "bare", "--prompt", "a") == 1
    assert "was saved without a tokenizer" in capsys.readouterr().err
