import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempa.data.loader import Loader
from tempa.data.mixture import Mixture
from tempa.data.shards import Shards, ShardWriter
from tempa.model import ModelConfig, Transformer
from tempa.tokenizer import Tokenizer
from tempa.train.pretrain import (
    PretrainConfig,
    PretrainStage,
    make_model,
    open_data,
    parse_shape,
    pretrain,
)
from tempa.train.run import RunDir

TEXT = "".join(f"{a} and {b} make {a + b}; " for a in range(12) for b in range(12))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def base(text_file: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=text_file,
        out=tmp_path / "run",
        tokenizer="characters",
        shape=("depth=2", "width=16", "num_heads=2"),
        seq_len=16,
        batch_size=4,
        steps=8,
        warmup_steps=2,
        eval_every=4,
        save_every=4,
        log_every=2,
        clip_norm=0.5,
        eval_tokens=128,
        device="cpu",
    )


def outcome(config: PretrainConfig) -> dict[str, Any]:
    """Everything that a run leaves behind, but for clock readings and its own place."""
    result = pretrain(config)
    rows = [{k: v for k, v in row.items() if k != "time"} for row in result.run.rows()]
    return {
        "rows": rows,
        "checkpoints": sorted(path.name for path in result.run.checkpoints.iterdir()),
        "weights": (result.checkpoint / "model.safetensors").read_bytes(),
    }


PERTURBED: dict[str, Any] = {
    "model": "nanogpt",
    "shape": ("depth=3", "width=16", "num_heads=2"),
    "seq_len": 8,
    "batch_size": 2,
    "micro_batch_size": 1,
    "mode": "windows",
    "eval_tokens": 64,
    "steps": 9,
    "lr": 0.01,
    "muon_lr": 0.01,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_steps": 3,
    "min_lr_ratio": 0.5,
    "betas": (0.8, 0.95),
    "weight_decay": 0.2,
    "clip_norm": 0.1,
    "precision": "bf16",
    "eval_every": 2,
    "save_every": 3,
    "keep_checkpoints": 1,
    "log_every": 4,
    "seed": 1,
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("field", PERTURBED)
def test_every_option_changes_the_run(base: PretrainConfig, field: str, outcomes: dict[str, Any]) -> None:
    # Trap C2: an option that is parsed and then ignored.
    if not outcomes:
        outcomes["base"] = outcome(base)
    changed = dataclasses.replace(base, out=base.out.with_name("changed"), **{field: PERTURBED[field]})
    assert outcome(changed) != outcomes["base"]


def test_the_other_options_are_read_too(base: PretrainConfig, tmp_path: Path) -> None:
    covered = {"decay_fraction", "device", "data", "out", "tokenizer", "overwrite"}
    assert covered | set(PERTURBED) == {field.name for field in dataclasses.fields(base)}
    wsd = dataclasses.replace(base, schedule="wsd", out=tmp_path / "wsd")
    assert outcome(wsd) != outcome(dataclasses.replace(wsd, decay_fraction=0.9, out=tmp_path / "longer"))
    with pytest.raises(ValueError, match="device 'nowhere' is unknown"):
        pretrain(dataclasses.replace(base, device="nowhere", out=tmp_path / "device"))
    with pytest.raises(ValueError, match=r"sums\.txt is text; add --tokenizer characters"):
        pretrain(dataclasses.replace(base, tokenizer=None, out=tmp_path / "tokenizer"))
    with pytest.raises(FileNotFoundError):
        pretrain(dataclasses.replace(base, data=tmp_path / "gone", out=tmp_path / "data"))
    pretrain(base)
    with pytest.raises(ValueError, match="steps = 8, this command has 9"):
        pretrain(dataclasses.replace(base, steps=9))
    assert pretrain(dataclasses.replace(base, steps=9, overwrite=True)).steps == 9


def test_a_configuration_has_at_most_thirty_fields() -> None:
    assert len(dataclasses.fields(PretrainConfig)) <= 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"lr": -1.0}, r"lr must be positive, got -1\.0"),
        ({"betas": (0.9, 1.0)}, "betas must lie in"),
        ({"min_lr_ratio": 2.0}, r"min_lr_ratio must lie between 0 and 1, got 2\.0"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 4"),
        ({"eval_tokens": -1}, "eval_tokens must not be negative, got -1"),
    ],
)
def test_bad_values_are_refused_by_name(base: PretrainConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, **change)


def test_a_text_is_split_in_front_and_last_tenth_and_tokenised_once(base: PretrainConfig) -> None:
    run = RunDir.open(base.out, base)
    tokenizer, corpus = open_data(base, run)
    train, validation = Shards(corpus / "train"), Shards(corpus / "val")
    split = int(len(TEXT) * 0.9)
    assert tokenizer.decode(train.tokens(0, train.num_tokens)) == TEXT[:split]
    assert tokenizer.decode(validation.tokens(0, validation.num_tokens)) == TEXT[split:]
    base.data.write_text("something else")
    again, _ = open_data(base, run)
    assert again.sha256 == tokenizer.sha256


def test_shards_are_read_from_train_and_val(base: PretrainConfig, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_characters(TEXT)
    root = tmp_path / "shards"
    for name, part in (("train", TEXT[:1500]), ("val", TEXT[1500:])):
        with ShardWriter(root / name, tokenizer.sha256, tokenizer.vocab_size) as writer:
            writer.add(*tokenizer.encode_batch([part]))
    tokenizer.save(root / "tokenizer.json")
    result = pretrain(dataclasses.replace(base, data=root, tokenizer=None))
    assert result.steps == 8
    other = tmp_path / "tokenizer.json"
    Tokenizer.from_characters("other").save(other)
    with pytest.raises(ValueError, match="tokenizer"):
        pretrain(dataclasses.replace(base, data=root, tokenizer=str(other), out=tmp_path / "other"))


def test_a_corpus_of_several_sources_is_read_as_a_mixture(base: PretrainConfig, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_characters(TEXT)
    root = tmp_path / "corpus"
    for split, start in (("train", 0), ("val", 1500)):
        for name, stop in (("plain", start + 200), ("twice", start + 400)):
            with ShardWriter(root / split / name, tokenizer.sha256, tokenizer.vocab_size) as writer:
                writer.add(*tokenizer.encode_batch([TEXT[start:stop]]))
    tokenizer.save(root / "tokenizer.json")
    train = Mixture(sources={name: root / "train" / name for name in ("plain", "twice")}, max_epochs=1000)
    train.save(root / "train")
    config = dataclasses.replace(base, data=root, tokenizer=None, eval_tokens=0)
    found = pretrain(config).metrics
    assert set(found) == {
        f"{name}{of}" for name in ("loss", "bits_per_byte") for of in ("", "/plain", "/twice")
    }
    # 199 and 399 predictions.
    assert found["loss"] == pytest.approx((found["loss/plain"] * 199 + found["loss/twice"] * 399) / 598)
    with pytest.raises(ValueError, match="max_epochs leaves"):
        pretrain(dataclasses.replace(config, steps=10**6, out=tmp_path / "long"))


def test_training_goes_on_from_the_model_of_another_run(base: PretrainConfig, tmp_path: Path) -> None:
    first = pretrain(base)
    second = pretrain(dataclasses.replace(base, model=str(first.run.path), shape=(), out=tmp_path / "on"))
    assert second.run.rows()[0]["eval"] == first.metrics
    with pytest.raises(ValueError, match="shape changes a named model"):
        pretrain(dataclasses.replace(base, model=str(first.run.path), out=tmp_path / "shape"))
    with pytest.raises(ValueError, match="was trained with another tokenizer"):
        make_model(
            dataclasses.replace(base, model=str(first.run.path), shape=()), Tokenizer.from_characters("x")
        )


def test_a_shape_longer_than_the_preset_gets_the_positions_it_needs(base: PretrainConfig) -> None:
    long = dataclasses.replace(base, seq_len=4096)
    assert make_model(long, Tokenizer.from_characters("ab")).config.max_positions == 4096


def test_shape_words_become_values() -> None:
    words = ("depth=6", "mlp=swiglu", "softcap=15.5", "tied=false", "window=null")
    assert parse_shape(words) == {
        "depth": 6,
        "mlp": "swiglu",
        "softcap": 15.5,
        "tied": False,
        "window": None,
    }
    for word, message in (
        ("dept=6", "did you mean 'depth'"),
        ("depth", "did you mean 'depth'"),
        ("depth=six", "depth is a number"),
        ("vocab_size=5", "cannot change the shape by 'vocab_size=5'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_shape((word,))


def test_each_evaluation_shows_how_the_model_goes_on_from_held_out_text(base: PretrainConfig) -> None:
    rows = [json.loads(line) for line in pretrain(base).run.samples.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 0, 4, 4, 8, 8]
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    assert all(held_out.startswith(row["prompt"]) and row["prompt"] and row["text"] for row in rows)


@pytest.fixture
def ragged(tmp_path: Path) -> tuple[Tokenizer, Shards]:
    """Documents of very different lengths."""
    tokenizer = Tokenizer.from_characters("abcdefgh")
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 60, 200)
    ids = rng.integers(0, 8, lengths.sum()).astype(np.uint32)
    with ShardWriter(tmp_path / "ragged", tokenizer.sha256, tokenizer.vocab_size) as writer:
        writer.add(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return tokenizer, Shards(tmp_path / "ragged")


def test_held_out_loss_is_the_mean_over_every_token_once(ragged: tuple[Tokenizer, Shards]) -> None:
    tokenizer, shards = ragged
    model = Transformer(ModelConfig(tokenizer.vocab_size, depth=1, width=16, num_heads=2))
    loader = Loader(shards, seq_len=64, batch_size=4)
    with torch.no_grad():
        found = PretrainStage(loader, loader, tokenizer).evaluate(model, 0)
    # Weights at the start predict a near-uniform distribution over the vocabulary.
    assert found["loss"] == pytest.approx(math.log(tokenizer.vocab_size), rel=0.05)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2))
    total = count = 0.0
    with torch.no_grad():
        for batch in loader.epoch():
            part, weight = model.loss(batch)
            total, count = total + float(part), count + float(weight)
    assert count == shards.num_tokens - shards.num_documents
    assert found["loss"] == pytest.approx(total / count)


def gradient(stage: Any, step: int, mean: str = "global") -> torch.Tensor:
    """The gradient of one step as the loop makes it; "micro" is the mutant of trap L1, a mean of means."""
    model = Transformer(ModelConfig(32, depth=2, width=32, num_heads=2), seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    pieces, denominator = stage.micro_batches(step)
    for micro in pieces:
        by = denominator if mean == "global" else float(micro.weights.sum()) * len(pieces)
        (stage.loss(model, micro).total / by).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def stage_of(ragged: tuple[Tokenizer, Shards], rows: int, num_micro_batches: int) -> PretrainStage:
    tokenizer, shards = ragged
    loader = Loader(shards, seq_len=60, batch_size=rows, seed=5)
    return PretrainStage(loader, loader, tokenizer, num_micro_batches=num_micro_batches, eval_tokens=1)


@pytest.mark.parametrize(("rows", "num_micro_batches"), [(4, 4), (1, 16)])
@pytest.mark.parametrize("step", [0, 1])
def test_a_steps_gradient_does_not_depend_on_its_micro_batches(
    ragged: tuple[Tokenizer, Shards], rows: int, num_micro_batches: int, step: int
) -> None:
    # Trap L1: float32 sums in another order, so a relative 1e-6 and not equality.
    whole = gradient(stage_of(ragged, 16, 1), step)
    pieces = gradient(stage_of(ragged, rows, num_micro_batches), step)
    assert torch.linalg.norm(pieces - whole) < 1e-6 * torch.linalg.norm(whole)


def test_a_mean_of_micro_batch_means_is_another_gradient(ragged: tuple[Tokenizer, Shards]) -> None:
    # Trap L1's mutant: what the test above would catch.
    last = next(i for i in range(99) if len(set(ragged_counts(ragged, i))) > 1)
    whole = gradient(stage_of(ragged, 16, 1), last)
    mutant = gradient(stage_of(ragged, 1, 16), last, mean="micro")
    assert torch.linalg.norm(mutant - whole) > 1e-4 * torch.linalg.norm(whole)


def ragged_counts(ragged: tuple[Tokenizer, Shards], step: int) -> list[float]:
    pieces, _ = stage_of(ragged, 1, 16).micro_batches(step)
    return [float(piece.weights.sum()) for piece in pieces]


def test_micro_batches_give_the_same_run(base: PretrainConfig, tmp_path: Path) -> None:
    losses = []
    for size in (0, 2, 1):
        config = dataclasses.replace(base, micro_batch_size=size, out=tmp_path / f"micro{size}")
        losses.append([row["train"]["loss"] for row in pretrain(config).run.rows() if "train" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_the_saved_configuration_repeats_the_run(base: PretrainConfig, tmp_path: Path) -> None:
    from tempa import config

    first = pretrain(base)
    words = [str(first.run.config), "--out", str(tmp_path / "second")]
    again = config.parse(PretrainConfig, words, prog="tempa pretrain", description="")
    assert dataclasses.replace(again, out=base.out) == base
    assert json.dumps(pretrain(again).metrics) == json.dumps(first.metrics)
