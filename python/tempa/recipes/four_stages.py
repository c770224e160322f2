"""Raw text to a reasoning chat model in four stages: the recipe behind `tempa demo`.

Copy this file to make your own. Each stage is one call of a recipe that `tempa` also has as a command, with a
run directory of its own; a stage that is finished is passed over, one that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tempa.align.dpo import DpoConfig, dpo
from tempa.align.grpo import GrpoConfig, grpo
from tempa.align.ppo import PpoConfig, ppo
from tempa.align.reward import RewardConfig, reward
from tempa.align.sft import SftConfig, sft
from tempa.data.corpus import FUNNEL, build
from tempa.data.documents import Document, read_documents
from tempa.data.rules import Rules
from tempa.model import load_model, save_model
from tempa.recipes import lessons, story
from tempa.recipes.examination import Results, examine, gzip_bits_per_byte, held_out_texts
from tempa.recipes.standard_library import docstrings
from tempa.recipes.world import World
from tempa.report import Story, write_story_report
from tempa.tokenizer import Tokenizer
from tempa.train.precision import choose_device
from tempa.train.pretrain import PretrainConfig, make_model, pretrain
from tempa.train.run import RunDir, resolve_model

# The published rules are for web pages; these documents are short, and names recur in them by design.
RULES = dataclasses.replace(
    Rules.none(),
    min_words=2,
    max_mean_word_length=20,
    max_symbol_ratio=0.1,
    max_top_letter=0.5,
    max_duplicate_lines=0.3,
    max_duplicate_8gram=0.12,
)
# A long text is read in pieces of this length, so that some of it can be held out.
_MAX_CHARS = 4000
MODELS = ("random", "pretrain", "sft", "dpo", "grpo")


@dataclass(frozen=True)
class Choices:
    """What a demo's directory belongs to."""

    plan: Plan
    seed: int
    corpus: Path | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything. The settings of a stage are options of its command."""

    people: int = 80
    towns: int = 16
    tellings: int = 40
    sums: int = 3000
    text_bytes: int = 300_000
    vocab_size: int = 1536
    strangers: int = 300
    brief: float = 0.7
    sum_chats: int = 600
    sum_tasks: int = 2000
    other_pairs: int = 160
    shape: tuple[str, ...] = ("depth=4", "width=192", "num_heads=4")
    pretrain: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] = field(default_factory=dict)
    dpo: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=lambda: {"steps": 40, "batch_size": 16, "lr": 1e-4})
    ppo: dict[str, Any] = field(default_factory=lambda: {"steps": 80, "lr": 1e-4, "max_new_tokens": 32})


FULL = Plan(
    pretrain={
        "steps": 600,
        "batch_size": 8,
        "lr": 3e-3,
        "muon_lr": 0.02,
        "eval_every": 50,
        "eval_tokens": 20_000,
    },
    sft={"optimizer": "muon", "lr": 3e-4, "muon_lr": 0.003, "batch_size": 32, "epochs": 3},
    dpo={"steps": 30, "batch_size": 32, "lr": 5e-5, "beta": 0.2, "warmup_steps": 5},
    grpo={"steps": 40, "batch_size": 32, "samples": 8, "lr": 2e-4, "max_new_tokens": 40},
)
QUICK = Plan(
    people=20,
    towns=4,
    tellings=40,
    sums=3000,
    text_bytes=30_000,
    vocab_size=800,
    strangers=60,
    brief=0.85,
    sum_chats=400,
    sum_tasks=1000,
    other_pairs=60,
    shape=("depth=3", "width=128", "num_heads=4"),
    pretrain={
        "steps": 310,
        "batch_size": 8,
        "lr": 5e-3,
        "muon_lr": 0.03,
        "eval_every": 60,
        "eval_tokens": 10_000,
    },
    sft={"optimizer": "muon", "lr": 5e-4, "muon_lr": 0.004, "batch_size": 16, "epochs": 4},
    dpo={"steps": 20, "batch_size": 32, "lr": 5e-5, "beta": 0.2, "warmup_steps": 5},
    grpo={"steps": 16, "batch_size": 16, "samples": 8, "lr": 3e-4, "warmup_steps": 3, "max_new_tokens": 28},
)


def demo(
    out: Path,
    plan: Plan,
    *,
    seed: int = 0,
    corpus: Path | None = None,
    with_ppo: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Story:
    """Train and examine all models and write `report.html`.

    Args:
        out: A directory; everything is kept there, and the same call goes on where it stopped.
        plan: How much of everything.
        seed: Of the world, the models and the order of training.
        corpus: Text to read in place of the standard library's.
        with_ppo: Also train a reward model and PPO.
        device: As in every recipe.
        overwrite: Delete the demo that is in `out` and start anew.
    """
    started = time.monotonic()
    if overwrite:
        for name in ("corpus", "lessons", "examination", "reward", *MODELS, "ppo"):
            shutil.rmtree(out / name, ignore_errors=True)
    RunDir.open(out, Choices(plan, seed, corpus), overwrite=overwrite)
    world = World(seed, plan.people, plan.towns)
    train_all(out, plan, world, corpus=corpus, with_ppo=with_ppo, device=device)
    models = (*MODELS, "ppo") if with_ppo else MODELS
    results = {name: examined(out, name, world, device) for name in models}
    tokenizer = Tokenizer.load(out / "corpus")
    facts = {
        "last call": f"{time.monotonic() - started:.0f} s",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "seed": str(world.seed),
    }
    gzip_bits = gzip_bits_per_byte(held_out_texts(out / "corpus", tokenizer))
    told = story.tell(out, results, gzip_bits, facts)
    write_story_report(out / "report.html", told)
    return told


def train_all(
    out: Path, plan: Plan, world: World, *, corpus: Path | None, with_ppo: bool, device: str
) -> None:
    """All stages, each from the model before."""
    common: dict[str, Any] = {"seed": world.seed, "device": device, "eval_every": 20, "log_every": 5}
    write_corpus(out / "corpus", world, plan, corpus)
    read = write_lessons(out / "lessons", world, plan)
    base = PretrainConfig(
        data=out / "corpus", out=out / "pretrain", shape=plan.shape, **{**common, **plan.pretrain}
    )
    write_untrained(out / "random", base)
    pretrain(base)
    sft(SftConfig(model=out / "pretrain", data=read["chats"], out=out / "sft", **{**common, **plan.sft}))
    dpo(DpoConfig(model=out / "sft", data=read["pairs"], out=out / "dpo", **{**common, **plan.dpo}))
    grpo(GrpoConfig(model=out / "dpo", data=read["sums"], out=out / "grpo", **{**common, **plan.grpo}))
    if with_ppo:
        places: dict[str, Any] = {"model": out / "sft", "data": read["pairs"]}
        reward(RewardConfig(**places, out=out / "reward", **{**common, **plan.reward}))
        ppo(PpoConfig(**places, reward=out / "reward", out=out / "ppo", **{**common, **plan.ppo}))


def write_untrained(directory: Path, base: PretrainConfig) -> None:
    """The model before its first step."""
    if not (directory / "model.safetensors").exists():
        tokenizer = Tokenizer.load(base.data)
        save_model(directory, make_model(base, tokenizer), tokenizer)


def write_corpus(directory: Path, world: World, plan: Plan, corpus: Path | None) -> None:
    """Clean, deduplicate and tokenise the world's documents and real text, unless that is done."""
    if (directory / FUNNEL).exists():
        return
    told = lessons.documents(world, tellings=plan.tellings, sums=plan.sums)
    texts = [Document(text, "world") for text in told]
    if corpus is None:
        texts += [Document(text, "standard library") for text in docstrings(plan.text_bytes)]
    else:
        texts += real_text(corpus, plan.text_bytes)
    tokenizer = Tokenizer.train([text.text for text in texts], vocab_size=plan.vocab_size, pattern="qwen2")
    build(texts, directory, tokenizer, rules=RULES, val_fraction=0.03)


def real_text(corpus: Path, max_bytes: int) -> list[Document]:
    """The user's documents, as many as the time for training allows; says so if that is not all."""
    taken: list[Document] = []
    size = 0
    for document in read_documents(corpus):
        for start in range(0, len(document.text), _MAX_CHARS):
            if size >= max_bytes:
                read = f"reads the first {size / 1e6:.2f} MB of {corpus}"
                print(f"demo: {read}; `tempa data build` and `tempa pretrain` read all", file=sys.stderr)
                return taken
            piece = document.text[start : start + _MAX_CHARS]
            taken.append(Document(piece, document.source))
            size += len(piece.encode())
    return taken


def write_lessons(directory: Path, world: World, plan: Plan) -> dict[str, Path]:
    """Write what SFT, DPO and GRPO read; return the files by name."""
    directory.mkdir(parents=True, exist_ok=True)
    records = {
        "chats": lessons.chats(world, strangers=plan.strangers, sums=plan.sum_chats, brief=plan.brief),
        "pairs": lessons.pairs(world, others=plan.other_pairs),
        "sums": lessons.sum_tasks(world, plan.sum_tasks, held_out=False),
    }
    paths = {name: directory / f"{name}.jsonl" for name in records}
    for name, rows in records.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        paths[name].write_text(text, "utf-8")
    return paths


def examined(out: Path, name: str, world: World, device: str) -> Results:
    """The examination of one model, made once."""
    path = out / "examination" / f"{name}.json"
    if not path.exists():
        model, tokenizer = load_model(resolve_model(out / name))
        assert tokenizer is not None
        model.to(choose_device(device))
        texts = held_out_texts(out / "corpus", tokenizer)
        # Without training no answer is likelier than another: what is shown of it is drawn.
        temperature = 1.0 if name == "random" else 0.0
        examine(model, tokenizer, world, texts, temperature=temperature).save(path)
    return Results.load(path)
