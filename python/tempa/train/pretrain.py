"""Pretraining: predict the next token of text.

`pretrain` is the whole recipe: tokens, model, stage, loop. The rows of step `n` depend on the seed and on `n`
alone, and a step cut into micro-batches reads the same rows.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tempa.data.loader import Loader
from tempa.data.packed import Packed
from tempa.data.shards import ShardWriter
from tempa.data.survey import byte_lengths
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer, load_model
from tempa.model.config import PRESETS
from tempa.tokenizer import Tokenizer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir, resolve_model
from tempa.train.settings import TrainConfig
from tempa.train.stage import Loss, Stage

VAL_FRACTION = 0.1
SAMPLE_PROMPT_TOKENS, SAMPLE_NEW_TOKENS = 16, 64


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """What pretraining reads, makes and writes.

    Attributes:
        data: A directory with train/ and val/, each a shard directory or a mixture of several (see
            `Mixture.load`), or a text file, whose last tenth is held out.
        out: The run directory.
        tokenizer: A tokenizer.json or its directory, or "characters" for a text file; the one beside the
            shards when None.
        model: A named shape (see `ModelConfig.preset`), or a model or run directory to go on from.
        shape: Changes to a named shape, such as `depth=6 mlp=swiglu`.
        seq_len: Predictions in a row.
        batch_size: Rows in a step.
        micro_batch_size: Rows that are in memory at once; all of a step's when 0.
        mode: "packed" fills rows with whole documents, "windows" cuts rows anywhere in the text.
        eval_tokens: Held-out tokens that an evaluation reads; 0 reads all.
        overwrite: Delete the run that is in `out` and start anew.
    """

    data: Path
    out: Path
    tokenizer: str | None = None
    model: str = "1m"
    shape: tuple[str, ...] = ()
    seq_len: int = 256
    batch_size: int = 16
    micro_batch_size: int = 0
    mode: Literal["packed", "windows"] = "packed"
    eval_tokens: int = 100_000
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig, PretrainData):
    """Settings of `tempa pretrain`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("micro_batch_size", "eval_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}"
            )


class PretrainStage(Stage):
    """Next-token prediction on a loader's rows.

    Args:
        loader: Makes the micro-batches.
        num_micro_batches: How many of them are one step.
        validation: Held-out text; `eval_tokens` of it are read, in order, the same number of each source.
        tokenizer: Turns losses per token into bits per byte.
        eval_tokens: 0 reads all held-out text.
    """

    name = "pretrain"

    def __init__(
        self,
        loader: Loader,
        validation: Loader,
        tokenizer: Tokenizer,
        *,
        num_micro_batches: int = 1,
        eval_tokens: int = 0,
    ) -> None:
        self.loader, self.num_micro_batches = loader, num_micro_batches
        self.tokenizer = tokenizer
        num_tokens = -(-eval_tokens // len(validation.sources)) or validation.num_targets
        self._validation = {
            name: list(_head(validation.epoch(name), num_tokens)) for name in validation.sources
        }
        self._bytes_of = byte_lengths(tokenizer)
        first = next(iter(validation.sources.values()))
        self._prompt = first.tokens(0, min(SAMPLE_PROMPT_TOKENS, loader.seq_len // 2 + 1, first.num_tokens))

    def micro_batches(self, step: int) -> tuple[Sequence[Packed], float]:
        """The rows of update `step`; the denominator is the number of their targets."""
        first = step * self.num_micro_batches
        batches = [self.loader.batch(index) for index in range(first, first + self.num_micro_batches)]
        return batches, sum(float(batch.weights.sum()) for batch in batches)

    def loss(self, model: Transformer, micro: Packed) -> Loss:
        """Summed negative log-likelihood of the targets."""
        total, _ = model.loss(micro.to(model.device))
        return Loss(total, micro.num_tokens)

    def evaluate(self, model: Transformer, step: int) -> dict[str, float]:  # noqa: ARG002
        """Mean loss per held-out token, and bits per byte of held-out text; of several sources, for each too.

        Tokens without text of their own, such as the end of a document, add to the bits and not to the bytes.
        """
        sums = {name: self._evaluate(model, batches) for name, batches in self._validation.items()}
        measures = _means(*map(sum, zip(*sums.values(), strict=True)))
        if len(sums) > 1:
            for name, parts in sums.items():
                measures |= {f"{measure}/{name}": value for measure, value in _means(*parts).items()}
        return measures

    def _evaluate(self, model: Transformer, batches: list[Packed]) -> tuple[float, float, float]:
        """Summed loss, number of targets, and bytes of their text."""
        total = count = num_bytes = 0.0
        for batch in batches:
            loss, weight = model.loss(batch.to(model.device))
            total += float(loss)
            count += float(weight)
            num_bytes += float(self._bytes_of[batch.targets.numpy()].sum())
        return total, count, num_bytes

    def samples(self, model: Transformer, step: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """How the model goes on from the beginning of the held-out text."""
        sampling = Sampling(max_new_tokens=SAMPLE_NEW_TOKENS, n=2)
        [completions] = Engine(model, self.tokenizer).generate([self._prompt], sampling)
        prompt = self.tokenizer.decode(self._prompt)
        return [{"prompt": prompt, "text": completion.text} for completion in completions]


def pretrain(config: PretrainConfig) -> FitResult:
    """Train a model on text, or go on where a run of the same configuration stopped.

    >>> _ = Path("book.txt").write_text("to be or not to be, that is the question. " * 50)
    >>> source = {"data": Path("book.txt"), "tokenizer": "characters"}
    >>> result = pretrain(PretrainConfig(**source, out=Path("run"), steps=2, seq_len=16))
    >>> result.checkpoint.name, sorted(result.metrics)
    ('step-000002', ['bits_per_byte', 'loss'])
    """
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    tokenizer, corpus = open_data(config, run)
    model = make_model(config, tokenizer)
    rows = config.micro_batch_size or config.batch_size
    train = Loader(
        corpus / "train",
        seq_len=config.seq_len,
        batch_size=rows,
        seed=config.seed,
        mode=config.mode,
        num_tokens=config.steps * config.batch_size * config.seq_len,
        tokenizer_fingerprint=tokenizer.sha256,
    )
    validation = Loader(
        corpus / "val", seq_len=config.seq_len, batch_size=rows, tokenizer_fingerprint=tokenizer.sha256
    )
    stage = PretrainStage(
        train,
        validation,
        tokenizer,
        num_micro_batches=config.batch_size // rows,
        eval_tokens=config.eval_tokens,
    )
    return fit(model, stage, config, run, tokenizer)


def open_data(config: PretrainConfig, run: RunDir) -> tuple[Tokenizer, Path]:
    """The tokenizer, and the directory with train/ and val/; a text file is made into shards first."""
    root = config.data
    if not root.is_file():
        return Tokenizer.load(config.tokenizer or root), root
    root = run.path / "data"
    if not (root / "tokenizer.json").exists():
        _tokenize_file(config, root)
    return Tokenizer.load(root), root


def make_model(config: PretrainConfig, tokenizer: Tokenizer) -> Transformer:
    """A fresh model of the named shape, or the weights of the named directory.

    Raises:
        ValueError: If a change of shape names no field, or the directory's tokenizer is another one.
    """
    if config.model in PRESETS:
        changes = parse_shape(config.shape)
        shape = ModelConfig.preset(config.model, tokenizer.vocab_size, **changes)
        if shape.max_positions < config.seq_len:
            shape = dataclasses.replace(shape, max_positions=config.seq_len)
        return Transformer(shape, seed=config.seed)
    if config.shape:
        raise ValueError(f"shape changes a named model; {config.model} has its shape")
    directory = resolve_model(config.model)
    model, known = load_model(directory)
    if known is None or known.sha256 != tokenizer.sha256:
        raise ValueError(f"{directory} was trained with another tokenizer than {config.data}")
    return model


def parse_shape(changes: Sequence[str]) -> dict[str, Any]:
    """Turn `("depth=6", "mlp=swiglu")` into the values that `ModelConfig` takes.

    Raises:
        ValueError: If a word is not `name=value`, or the name or value is not one that the shape has.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in defaults or name == "vocab_size" or not text:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"names are {', '.join(defaults)}"
            raise ValueError(f"cannot change the shape by {change!r}; {hint}")
        try:
            # Words are strings; everything else is spelled as in TOML.
            values[name] = text if isinstance(defaults[name], str) else json.loads(text)
        except ValueError:
            raise ValueError(f"cannot change the shape by {change!r}; {name} is a number") from None
    return values


def _tokenize_file(config: PretrainConfig, root: Path) -> None:
    """Write root/train, root/val and, last, root/tokenizer.json."""
    text = config.data.read_text(encoding="utf-8")
    if config.tokenizer == "characters":
        tokenizer = Tokenizer.from_characters(text)
    elif config.tokenizer:
        tokenizer = Tokenizer.load(config.tokenizer)
    else:
        raise ValueError(f"{config.data} is text; add --tokenizer characters or --tokenizer DIRECTORY")
    split = int(len(text) * (1 - VAL_FRACTION))
    for name, part in (("train", text[:split]), ("val", text[split:])):
        with ShardWriter(root / name, tokenizer.sha256, tokenizer.vocab_size, overwrite=True) as writer:
            writer.add(*tokenizer.encode_batch([part]))
    tokenizer.save(root / "tokenizer.json")


def _means(loss: float, count: float, num_bytes: float) -> dict[str, float]:
    return {"loss": loss / count, "bits_per_byte": loss / math.log(2) / num_bytes}


def _head(batches: Iterator[Packed], num_tokens: int) -> Iterator[Packed]:
    """The first batches, until they hold `num_tokens`."""
    for batch in batches:
        if num_tokens <= 0:
            return
        yield batch
        num_tokens -= batch.num_tokens
