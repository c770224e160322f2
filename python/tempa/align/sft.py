"""Supervised fine-tuning: next-token prediction on the assistant's turns of conversations (ch4 S4-S6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tempa.align.record_stage import Micro, RecordStage, Rows, num_trained
from tempa.align.records import Chat, load_chats
from tempa.align.settings import Places, RecordSettings, hold_out, load_start, with_steps
from tempa.chat import render_batch
from tempa.model import Transformer
from tempa.tokenizer import Tokenizer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir
from tempa.train.stage import Loss


@dataclass(frozen=True, kw_only=True)
class SftSettings(RecordSettings):
    """Settings of supervised fine-tuning; all are inherited."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(Places, SftSettings):
    """Settings of `tempa sft`."""


class SftStage(RecordStage):
    """Next-token prediction on assistant turns and their end tokens.

    A step's loss is divided by the trained tokens of the whole step (trap L1).

    Args:
        model: Says how long a conversation may be.
        tokenizer: Renders the conversations.
        chats: To train on.
        held_out: To evaluate on.
        settings: Batches and seed.

    Raises:
        ValueError: If no conversation fits.
    """

    name = "sft"

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        chats: Sequence[Chat],
        held_out: Sequence[Chat],
        settings: SftSettings,
    ) -> None:
        rows, held_rows = _chat_rows(tokenizer, chats), _chat_rows(tokenizer, held_out)
        super().__init__(rows, held_rows, model.config.max_positions, settings)

    def count(self, records: Sequence[int]) -> float:
        """Trained tokens."""
        return float(sum(num_trained(self.rows[i]) for i in records))

    def loss(self, model: Transformer, micro: Micro) -> Loss:
        """Summed negative log-likelihood of the trained tokens (ch4 S4)."""
        total, _ = model.loss(micro.batch.to(model.device))
        return Loss(total, micro.batch.num_tokens)

    def evaluate(self, model: Transformer, step: int) -> dict[str, float]:  # noqa: ARG002
        """Loss per trained token of the held-out conversations."""
        sums = [model.loss(micro.batch.to(model.device)) for micro in self.held_out()]
        count = sum(float(weight) for _, weight in sums)
        return {"loss": sum(float(total) for total, _ in sums) / count} if count else {}


def _chat_rows(tokenizer: Tokenizer, chats: Sequence[Chat]) -> list[Rows]:
    if not chats:
        return []
    rendered = render_batch(tokenizer, [chat.messages for chat in chats])
    return [(rendered[i],) for i in range(len(rendered))]


def fit_sft(
    model: Transformer,
    tokenizer: Tokenizer,
    chats: Sequence[Chat],
    held_out: Sequence[Chat],
    settings: SftSettings,
    run: RunDir,
) -> FitResult:
    """Fine-tune `model` in place on conversations, or go on where the run stopped."""
    settings = with_steps(settings, len(chats))
    return fit(model, SftStage(model, tokenizer, chats, held_out, settings), settings, run, tokenizer)


def sft(config: SftConfig) -> FitResult:
    """Fine-tune the model in `config.model` on the conversations in `config.data`.

    >>> from pathlib import Path
    >>> config = SftConfig(model=Path("runs/base"), data=Path("chats.jsonl"), out=Path("runs/sft"))
    >>> sft(config).metrics["loss"]  # doctest: +SKIP
    0.83
    """
    model, tokenizer = load_start(config.model)
    chats, held_out = hold_out(load_chats(config.data), config.data)
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    return fit_sft(model, tokenizer, chats, held_out, config, run)
