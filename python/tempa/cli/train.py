"""`tempa pretrain`, `sft`, `reward`, `dpo`, `ppo` and `grpo`: parse a configuration, train, report."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from tempa import config


@dataclass(frozen=True)
class Recipe:
    """Where a recipe is and what its help says.

    Attributes:
        module: Has the function `name` and its configuration.
        config: Name of the configuration.
        text: What it does.
        example: A command that works, and what it needs.
    """

    module: str
    config: str
    text: str
    example: str


RECIPES = {
    "pretrain": Recipe(
        "tempa.train.pretrain",
        "PretrainConfig",
        "Train a model to predict the next token of text.",
        "tempa pretrain --data shards --out runs/base  (shards come from `tempa data build`)\n"
        "  tempa pretrain --data book.txt --tokenizer characters --out runs/book",
    ),
    "sft": Recipe(
        "tempa.align.sft",
        "SftConfig",
        "Teach a pretrained model to answer: next-token prediction on the assistant's turns of chats.",
        "tempa sft --model runs/base --data chats.jsonl --out runs/sft",
    ),
    "reward": Recipe(
        "tempa.align.reward",
        "RewardConfig",
        "Train a model that scores answers, from pairs of a preferred and a rejected one.",
        "tempa reward --model runs/sft --data pairs.jsonl --out runs/reward",
    ),
    "dpo": Recipe(
        "tempa.align.dpo",
        "DpoConfig",
        "Move a chat model towards preferred answers, directly from pairs.",
        "tempa dpo --model runs/sft --data pairs.jsonl --out runs/dpo",
    ),
    "ppo": Recipe(
        "tempa.align.ppo",
        "PpoConfig",
        "Policy gradient with a value head: sampled answers, scored by a reward model.",
        "tempa ppo --model runs/sft --reward runs/reward --data prompts.jsonl --out runs/ppo",
    ),
    "grpo": Recipe(
        "tempa.align.grpo",
        "GrpoConfig",
        "Policy gradient on groups of sampled answers that a rule can check.",
        "tempa grpo --model runs/sft --data tasks.jsonl --out runs/grpo",
    ),
}

_HELP = """{text}

  {example}

A first word that ends in .toml is a file with options; later options win over it. The run directory keeps all
of them in config.toml, so `tempa {name} runs/one/config.toml --out runs/two` repeats a run. Ctrl-C saves and
stops; the same command goes on from there, with the same result as if it had not been stopped."""


def main(name: str, argv: list[str]) -> int:
    """Run one recipe and print the measures of its last evaluation."""
    recipe = RECIPES[name]
    module = importlib.import_module(recipe.module)
    description = _HELP.format(name=name, text=recipe.text, example=recipe.example)
    options: Any = config.parse(
        getattr(module, recipe.config), argv, prog=f"tempa {name}", description=description
    )
    result = getattr(module, name)(options)
    measures = "  ".join(f"{key} {value:.4f}" for key, value in result.metrics.items())
    print(f"{result.checkpoint}: step {result.steps}  {measures}")
    return 0
