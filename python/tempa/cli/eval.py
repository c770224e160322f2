"""`tempa eval`: measure a model on a file, with 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tempa import config

if TYPE_CHECKING:
    from tempa.eval import Estimate

_HELP = """Measure a model on held-out data.

  tempa eval --model runs/base --task bpb   held-out.txt    bits per byte of text
  tempa eval --model runs/sft  --task qa    questions.jsonl answers of the same words, and how many end
  tempa eval --model runs/grpo --task math  tasks.jsonl     answers of the same number, and how many end
  tempa eval --model runs/rm   --task pairs pairs.jsonl     pairs whose preferred answer scores higher

Intervals hold 95% of 2000 bootstrap means over the items."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of `tempa eval`.

    Attributes:
        file: Text for bpb; records with "prompt" and "answer" for qa and math, with "chosen" and "rejected"
            for pairs.
        model: A model, checkpoint or run directory; for pairs, also that of a reward model.
        task: What to measure.
        max_new_tokens: The longest answer.
        limit: Only the first so many items; 0 takes all.
        device: Where to run.
    """

    file: Annotated[Path, tyro.conf.Positional]
    model: Path
    task: Literal["bpb", "qa", "math", "pairs"]
    max_new_tokens: int = 128
    limit: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


def main(name: str, argv: list[str]) -> int:
    """Measure and print a table."""
    options = config.parse(EvalConfig, argv, prog=f"tempa {name}", description=_HELP)
    estimates = measure(options)
    print(f"{'measure':<16}{'mean':>9}   95% interval       items")
    for label, e in estimates.items():
        print(f"{label:<16}{e.mean:>9.4f}   {e.low:.4f} to {e.high:.4f}  {e.count:>7}")
    return 0


def measure(options: EvalConfig) -> dict[str, Estimate]:
    """The measures of one task.

    Raises:
        ValueError: If the file or the model is not what the task needs.
    """
    from tempa import eval as measures
    from tempa.align.grade import exact_answer, same_words
    from tempa.align.records import load_pairs, load_tasks
    from tempa.align.settings import load_start
    from tempa.data.documents import read_documents
    from tempa.engine import Engine
    from tempa.model import load_scalar
    from tempa.train.precision import choose_device
    from tempa.train.run import resolve_model

    device, limit = choose_device(options.device), options.limit or None
    if options.task == "pairs":
        pairs = load_pairs(options.file)[:limit]
        directory = resolve_model(options.model)
        model, tokenizer = load_scalar(directory) if _is_scalar(directory) else load_start(directory)
        if tokenizer is None:
            raise ValueError(f"{directory}: the reward model was saved without a tokenizer")
        return {"accuracy": measures.pair_accuracy(model.to(device), tokenizer, pairs)}
    model, tokenizer = load_start(options.model)
    model.to(device)
    if options.task == "bpb":
        texts = [document.text for document in islice(read_documents(options.file), limit)]
        return {"bits per byte": measures.bits_per_byte(model, tokenizer, texts)}
    answers = measures.exact_answer(
        Engine(model, tokenizer),
        load_tasks(options.file)[:limit],
        same_words if options.task == "qa" else exact_answer,
        max_new_tokens=options.max_new_tokens,
    )
    return {"exact answers": answers.accuracy, "stop rate": answers.stop_rate}


def _is_scalar(directory: Path) -> bool:
    """Whether a model directory holds a reward or value model; a damaged one is found when it is loaded."""
    from tempa.model.store import CONFIG

    return '"tempa-scalar"' in (directory / CONFIG).read_text(encoding="utf-8", errors="replace")
