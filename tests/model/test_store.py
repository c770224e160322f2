from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tempa.model import ModelConfig, ScalarHead, Transformer, load_model, load_scalar, save_model
from tempa.model.store import new_directory

CONFIG = ModelConfig(vocab_size=300, depth=1, width=16, num_heads=2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", Transformer(CONFIG, seed=3))
    return tmp_path / "model"


def test_a_model_comes_back_bit_for_bit(saved: Path) -> None:
    model, tokenizer = load_model(saved)
    assert tokenizer is None
    assert model.config == CONFIG
    original = Transformer(CONFIG, seed=3).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


def test_a_scalar_model_comes_back_and_is_not_taken_for_a_language_model(tmp_path: Path) -> None:
    model = ScalarHead(Transformer(CONFIG))
    torch.nn.init.normal_(model.scalar.weight)
    save_model(tmp_path / "reward", model)
    again, _ = load_scalar(tmp_path / "reward")
    assert torch.equal(again.scalar.weight, model.scalar.weight)
    with pytest.raises(ValueError, match="format is 'tempa-scalar', expected 'tempa-model'"):
        load_model(tmp_path / "reward")


@pytest.mark.parametrize("place", [0, 1, 9, 200, -1])
def test_one_flipped_byte_is_refused_by_name(saved: Path, place: int) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors: the checksum differs"):
        load_model(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="checksum differs"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depht": 2}, r"unknown keys \['depht'\]"),
        ({"width": None}, "config.json"),
        ({"depth": 2}, "tensors do not match the configuration"),
        ({"vocab_size": 299}, r"embedding.weight has shape \(300, 16\), expected \(299, 16\)"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    saved: Path, change: dict[str, object], message: str
) -> None:
    path = saved / "config.json"
    description = json.loads(path.read_text())
    description["model"] |= change
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"format": "other"}', "\xff"])
def test_a_foreign_config_is_refused_by_name(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json: (not a JSON file|format is)"):
        load_model(saved)


def test_a_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nothing")


def test_saving_again_replaces_the_model_and_leaves_nothing_else(saved: Path) -> None:
    save_model(saved, Transformer(CONFIG, seed=9))
    model, _ = load_model(saved)
    assert torch.equal(model.embedding.weight, Transformer(CONFIG, seed=9).embedding.weight)
    assert names(saved.parent) == ["model"]


def test_saving_over_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds files but no config\.json"):
        save_model(tmp_path, Transformer(CONFIG))
    assert (tmp_path / "thesis.txt").exists()


def test_an_error_while_writing_keeps_the_old_directory(tmp_path: Path) -> None:
    final = tmp_path / "run"
    final.mkdir()
    (final / "old").touch()

    def write() -> None:
        with new_directory(final) as fresh:
            (fresh / "new").touch()
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write()
    assert names(tmp_path) == ["run"]
    assert names(final) == ["old"]
