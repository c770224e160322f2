"""The same examination for every model of the demo: held-out text, held-out facts, held-out sums.

A model's results are kept beside the runs, so an interrupted demo does not examine a model twice.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tempa.align.grade import Task
from tempa.chat import render
from tempa.data.shards import Shards
from tempa.engine import Engine, Sampling
from tempa.eval import Estimate, bits_per_byte, bootstrap_interval, exact_answer
from tempa.model import Transformer
from tempa.recipes import lessons
from tempa.recipes.world import FIRST_SUM, World
from tempa.tokenizer import Tokenizer

MAX_NEW_TOKENS = 48
# Of an answer that does not end.
MAX_SHOWN_CHARS = 120
# Enough for intervals of a few hundredths.
NUM_SUMS = 200
MAX_TEXTS = 400


@dataclasses.dataclass(frozen=True)
class Results:
    """What one model scored; every measure is a mean with its interval.

    Attributes:
        bits_per_byte: On held-out text; lower is better.
        facts: Share of exactly right answers about entities that were never asked for in training.
        stops: Share of these answers that end by themselves.
        sentences: Share of these answers that are whole sentences about the entity.
        sums: Share of right results of held-out sums.
        worked: Share of sums that are worked out before the result is given.
        styles: For each of these answers, 1 if it is a whole sentence.
        answers: Question to answer, for the first screen.
    """

    bits_per_byte: Estimate
    facts: Estimate
    stops: Estimate
    sentences: Estimate
    sums: Estimate
    worked: Estimate
    styles: list[float]
    answers: dict[str, str]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False), "utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for name, value in values.items():
            if name not in ("styles", "answers"):
                values[name] = Estimate(**value)
        return cls(**values)


def first_questions() -> list[str]:
    """What the report's first screen asks."""
    a, b = FIRST_SUM
    return ["Where was Mira Valt born?", f"What is {a} + {b}?", "What is an LLM?"]


@torch.inference_mode()
def examine(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    texts: Sequence[str],
    *,
    temperature: float = 0.0,
) -> Results:
    """Ask a model everything, with the likeliest token each time.

    Args:
        model: Any of the models.
        tokenizer: Its tokenizer.
        world: Whose held-out facts and sums are asked.
        texts: Held-out text.
        temperature: Of the answers for the first screen.
    """
    model.eval()
    engine = Engine(model, tokenizer)
    asked = lessons.questions(world)
    prompts = [Task(({"role": "user", "content": question},), fact.value) for question, fact in asked]
    facts = exact_answer(engine, prompts, max_new_tokens=MAX_NEW_TOKENS)
    replies = [response.text for response in facts.responses]
    right = [float(fact.is_answered_by(reply)) for (_, fact), reply in zip(asked, replies, strict=True)]
    whole = [
        float(fact.entity in reply and reply.endswith("."))
        for (_, fact), reply in zip(asked, replies, strict=True)
    ]
    sums = [
        Task(({"role": "user", "content": task["prompt"]},), task["answer"])
        for task in lessons.sum_tasks(world, NUM_SUMS, held_out=True)
    ]
    solved = exact_answer(engine, sums, max_new_tokens=MAX_NEW_TOKENS)
    worked = [float("=" in response.text) for response in solved.responses]
    return Results(
        bits_per_byte=bits_per_byte(model, tokenizer, texts),
        facts=bootstrap_interval(right),
        stops=facts.stop_rate,
        sentences=bootstrap_interval(whole),
        sums=solved.accuracy,
        worked=bootstrap_interval(worked),
        styles=whole,
        answers=answer(engine, tokenizer, first_questions(), temperature=temperature),
    )


def answer(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[str], *, temperature: float = 0.0
) -> dict[str, str]:
    """An answer to each question; one that was cut off ends in an ellipsis."""
    prompts = [
        render(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True).ids
        for question in questions
    ]
    ends = tuple(tokenizer.special_tokens[name] for name in ("<|end|>", "<|endoftext|>"))
    samplings = [
        Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, seed=seed, stop_ids=ends)
        for seed in range(len(prompts))
    ]
    completions = [one for (one,) in engine.generate(prompts, samplings)]
    return {
        question: one.text if one.finish_reason == "stop" else f"{one.text[:MAX_SHOWN_CHARS]} …"
        for question, one in zip(questions, completions, strict=True)
    }


def held_out_texts(corpus: Path, tokenizer: Tokenizer) -> list[str]:
    """The held-out documents of a corpus, at most `MAX_TEXTS`."""
    shards = Shards(corpus / "val", tokenizer_fingerprint=tokenizer.sha256)
    count = min(shards.num_documents, MAX_TEXTS)
    return [tokenizer.decode(shards.document(i)[:-1]) for i in range(count)]


def gzip_bits_per_byte(texts: Sequence[str]) -> float:
    """What gzip needs for all the texts in one file, at its best setting."""
    data = "\n".join(texts).encode()
    return 8 * len(gzip.compress(data, 9, mtime=0)) / len(data)
