"""The demo's report: what each stage had to show, and whether it did.

A stage has learned if its own measure is better than that of the stage before, with intervals that do not
overlap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempa.data.corpus import FUNNEL
from tempa.eval import Estimate, non_overlapping, win_rate
from tempa.recipes.examination import Results
from tempa.report import Chapter, Story, Verdict
from tempa.report.page import Markup
from tempa.report.plot import Bar, line_plot
from tempa.report.run import read_rows

NAMES = {
    "random": "random weights",
    "pretrain": "pretrained",
    "sft": "instruction-tuned",
    "dpo": "preference-tuned",
    "grpo": "reasoning-tuned",
}
_MEASURES = {
    "bits_per_byte": "bits per byte of held-out text",
    "facts": "facts: exactly right",
    "stops": "facts: stops by itself",
    "sentences": "facts: whole sentence",
    "sums": "sums: right",
    "worked": "sums: worked out",
}


def tell(out: Path, results: Mapping[str, Results], gzip_bits: float, facts: Mapping[str, str]) -> Story:
    """The story of a finished demo.

    Args:
        out: Its directory.
        results: Of each model, in the order of training.
        gzip_bits: Bits per byte that gzip needs for the held-out text.
        facts: Shown at the end of the page.
    """
    chapters = [
        _pretraining(out, results, gzip_bits),
        _instructions(out, results),
        _preferences(out, results),
        _reasoning(out, results),
    ]
    if "ppo" in results:
        chapters.append(_reinforcement(out, results))
    questions = next(iter(results.values())).answers
    return Story(
        title="One model, five moments",
        lead=(
            "Raw text became a chat model here. The same questions were asked after each stage: no "
            "stage after pretraining was about Mira Valt, and none was given this sum."
        ),
        models=[_name(model) for model in results],
        answers={question: [one.answers[question] for one in results.values()] for question in questions},
        chapters=chapters,
        scores={
            title: [_cell(getattr(one, name), name) for one in results.values()]
            for name, title in _MEASURES.items()
        },
        funnel=json.loads((out / "corpus" / FUNNEL).read_text("utf-8")),
        facts={**facts, "time in updates": _times(out, results)},
    )


def _pretraining(out: Path, results: Mapping[str, Results], gzip_bits: float) -> Chapter:
    before, after = results["random"].bits_per_byte, results["pretrain"].bits_per_byte
    bars = [_bar("random", before), Bar("gzip -9", gzip_bits, color=5), _bar("pretrain", after)]
    has_passed = after.high < before.low and after.high < gzip_bits
    claim = "It predicts held-out text better than before, and better than gzip"
    return Chapter(
        "Pretraining: predict the next word",
        "The model reads text about invented people, towns and sums, mixed with real documentation. It "
        "learns to write like that, and what is said there, but it only continues text.",
        [Verdict(claim, "bits per byte of held-out text, lower is better", bars, has_passed, unit="")],
        [_curve(out / "pretrain", "bits_per_byte", "bits per byte while training", gzip=gzip_bits)],
    )


def _instructions(out: Path, results: Mapping[str, Results]) -> Chapter:
    compared = ("pretrain", "sft")
    return Chapter(
        "Instruction tuning: answer",
        "Conversations about one half of the people and towns teach what a question is and when an answer is "
        "over. The examination asks about the other half, which the model has only read about.",
        [
            _rise(
                "It answers questions about entities never asked for in this stage",
                "facts",
                compared,
                results,
            ),
            _rise("Its answers end by themselves", "stops", compared, results),
        ],
        [_curve(out / "sft", "loss", "loss per answer token")],
    )


def _preferences(out: Path, results: Mapping[str, Results]) -> Chapter:
    wins = win_rate(results["dpo"].styles, results["sft"].styles)
    kept, had = results["dpo"].facts, results["sft"].facts
    duel = [Bar(_name("sft"), 1 - wins.mean, color=_color("sft")), _bar("dpo", wins)]
    return Chapter(
        "Preference tuning: answer as people like it",
        "The conversations mixed one-word answers and whole sentences. Pairs of answers now say that the "
        "whole sentence is preferred (direct preference optimisation).",
        [
            Verdict(
                "On held-out questions it wins by the preferred style",
                "share of wins against the model before, ties count half",
                duel,
                wins.low > 0.5,
            ),
            _rise("It answers in whole sentences", "sentences", ("sft", "dpo"), results),
            Verdict(
                "It knows no less than before",
                _MEASURES["facts"],
                [_bar("sft", had), _bar("dpo", kept)],
                kept.high >= had.low,
            ),
        ],
        [_curve(out / "dpo", "margin", "margin between preferred and rejected answers")],
    )


def _reasoning(out: Path, results: Mapping[str, Results]) -> Chapter:
    return Chapter(
        "Reasoning tuning: find out what works",
        "The model tries sums in several ways and is told only whether the result was right (group-relative "
        "policy gradient). Answers that work the sum out are right more often, so it learns to do that.",
        [_rise("It gets more held-out sums right", "sums", ("dpo", "grpo"), results)],
        [_curve(out / "grpo", "reward", "share of right results while training")],
    )


def _reinforcement(out: Path, results: Mapping[str, Results]) -> Chapter:
    accuracy = read_rows(out / "reward" / "metrics.jsonl")[-1]["eval"]["accuracy"]
    divergence = [
        row["train"]["kl"] for row in read_rows(out / "ppo" / "metrics.jsonl") if "kl" in row.get("train", {})
    ]
    return Chapter(
        "Beside it: a reward model and PPO",
        f"The same pairs train a reward model, which ranks {100 * accuracy:.0f}% of held-out pairs right. "
        "PPO then raises that reward, held to the instruction-tuned model "
        f"(divergence at the end {divergence[-1] if divergence else 0:.2f} nats an answer).",
        [
            _rise("It answers in whole sentences", "sentences", ("sft", "ppo"), results),
            Verdict(
                "The reward model tells the preferred answer",
                "pairs ranked right",
                [Bar("reward model", accuracy)],
                accuracy > 0.9,
            ),
        ],
        [_curve(out / "ppo", "reward", "reward while training")],
    )


def _times(out: Path, results: Mapping[str, Results]) -> str:
    """Seconds of training in each stage, over all calls of the demo."""
    seconds = {
        name: read_rows(out / name / "metrics.jsonl")[-1]["time"]["train_s"]
        for name in results
        if name != "random"
    }
    return ", ".join(f"{_name(name)} {value:.0f} s" for name, value in seconds.items())


def _rise(claim: str, measure: str, compared: tuple[str, str], results: Mapping[str, Results]) -> Verdict:
    before, after = (getattr(results[model], measure) for model in compared)
    has_passed = after.mean > before.mean and non_overlapping(before, after)
    bars = [_bar(model, estimate) for model, estimate in zip(compared, (before, after), strict=True)]
    return Verdict(claim, _MEASURES[measure], bars, has_passed)


def _bar(model: str, estimate: Estimate) -> Bar:
    note = f"of {estimate.count}"
    return Bar(_name(model), estimate.mean, estimate.low, estimate.high, note, _color(model))


def _color(model: str) -> int:
    """As on the first screen."""
    return list(NAMES).index(model) if model in NAMES else len(NAMES)


def _name(model: str) -> str:
    return NAMES.get(model, model.upper())


def _cell(estimate: Estimate, measure: str) -> str:
    scale, digits = (1, 2) if measure == "bits_per_byte" else (100, 0)
    mean, low, high = (
        f"{scale * value:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high)
    )
    return f"{mean} [{low}, {high}]" if digits else f"{mean}% [{low}, {high}]"


def _curve(run: Path, measure: str, title: str, **levels: float) -> Markup:
    series: dict[str, list[tuple[float, float]]] = {"training": [], "held out": []}
    for row in read_rows(run / "metrics.jsonl"):
        for kind, label in (("train", "training"), ("eval", "held out")):
            measures: dict[str, Any] = row.get(kind, {})
            if measure in measures:
                series[label].append((row["step"], measures[measure]))
    return line_plot(series, x_label="step", y_label=title, levels=levels)
