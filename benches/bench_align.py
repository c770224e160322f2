"""Alignment: advantages, a DPO step, and grading.

The sides: `torch loop` walks padded tensors backwards one position at a time, as trainers in Python do;
`padded` is a DPO step in which every sequence is as long as the longest and every token gets its logits;
`python` extracts with a regular expression and compares fractions.
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from tempa.align.advantages import gae
from tempa.align.dpo import DpoSettings, DpoStage
from tempa.align.grade import grade
from tempa.align.preference import preference_loss
from tempa.align.records import Pair
from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer
from tempa.tokenizer import Tokenizer

GAMMA, LAM = 1.0, 0.95


def rollout(num_responses: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 16, longest + 1, num_responses)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    rewards, values = torch.from_numpy(rng.normal(size=(2, int(offsets[-1]))).astype(np.float32))
    return rewards, values, offsets


def torch_loop(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n, T) advantages of padded rewards and values; the mask is 1 on tokens."""
    advantages = torch.zeros_like(rewards)
    following = advantage = torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + GAMMA * following - values[:, t]
        advantage = (delta + GAMMA * LAM * advantage) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = advantage
    return advantages


@pytest.mark.benchmark(group="generalised advantage estimation")
@pytest.mark.parametrize("side", ["ours", "torch loop"])
@pytest.mark.parametrize("size", ["64 x 64", "512 x 1024"])
def test_gae(benchmark, size, side) -> None:
    rewards, values, offsets = rollout(*map(int, size.split(" x ")))
    lengths = offsets.diff()
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    padded_rewards, padded_values = (
        torch.zeros(mask.shape).masked_scatter(mask, x) for x in (rewards, values)
    )
    weights = mask.float()
    expected = torch_loop(padded_rewards, padded_values, weights)[mask]
    torch.testing.assert_close(gae(rewards, values, offsets, lam=LAM)[0], expected, atol=1e-4, rtol=1e-4)
    benchmark.extra_info["tokens"] = len(rewards)
    if side == "ours":
        benchmark(gae, rewards, values, offsets, lam=LAM)
    else:
        benchmark(torch_loop, padded_rewards, padded_values, weights)


def preference_data() -> tuple[Transformer, Tokenizer, list[Pair]]:
    """16 pairs with prompts of about 32 tokens and answers of 8 to 64; 1M parameters."""
    words = [chr(97 + i) * 2 for i in range(26)]
    tokenizer = Tokenizer.train([" ".join(words) * 8], vocab_size=320)
    model = Transformer(ModelConfig.preset("1m", tokenizer.vocab_size))
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return " ".join(rng.choice(words, length))

    pairs = []
    for _ in range(16):
        prompt = ({"role": "user", "content": text(28)},)
        pairs.append(Pair(prompt, *(text(int(rng.integers(8, 65))) for _ in range(2))))
    return model, tokenizer, pairs


def padded_step(model: Transformer, rows: list, reference: torch.Tensor) -> torch.Tensor:
    """The same loss from sequences of equal length, logits everywhere."""
    sequences = [row for both in rows for row in both]
    longest = max(len(row.ids) for row in sequences)
    ids = [np.pad(row.ids, (0, longest - len(row.ids))) for row in sequences]
    masks = [np.pad(row.mask, (0, longest - len(row.mask))) for row in sequences]
    batch = Packed.from_rows(ids, masks)
    logps = (model.logps(batch) * batch.weights).view(-1, 2, longest).sum(2)
    ratios = logps - reference
    loss = preference_loss(ratios[:, 0] - ratios[:, 1]).mean()
    loss.backward()
    return loss.detach()


@pytest.mark.benchmark(group="DPO step, forward and backward")
@pytest.mark.parametrize("side", ["ours", "padded"])
def test_dpo_step(benchmark, side) -> None:
    model, tokenizer, pairs = preference_data()
    stage = DpoStage(model, tokenizer, pairs, [], DpoSettings(batch_size=16, precision="fp32"))
    micros, denominator = stage.micro_batches(0)
    records = [record for micro in micros for record in micro.records]

    def ours() -> torch.Tensor:
        total = torch.zeros(())
        for micro in micros:
            loss = stage.loss(model, micro).total / denominator
            loss.backward()
            total += loss.detach()
        return total

    def padded() -> torch.Tensor:
        return padded_step(model, [stage.rows[i] for i in records], stage.reference[records])

    torch.testing.assert_close(ours(), padded(), atol=1e-5, rtol=1e-5)
    benchmark.extra_info["tokens"] = sum(micro.batch.num_tokens for micro in micros)
    benchmark(ours if side == "ours" else padded)


def worked_answers(num_answers: int) -> tuple[list[str], list[str]]:
    """Five steps of arithmetic and a final answer each; every other one is wrong."""
    rng = np.random.default_rng(0)
    texts, answers = [], []
    for i, terms in enumerate(rng.integers(1, 1000, (num_answers, 6)).tolist()):
        total, steps = terms[0], []
        for term in terms[1:]:
            steps.append(
                f"Adding {term} to {total} gives <<{total}+{term}={total + term}>>{total + term:,} in all."
            )
            total += term
        texts.append("\n".join([*steps, f"#### {total:,}"]))
        answers.append(f"{total + i % 2}")
    return texts, answers


def python_grade(texts: list[str], answers: list[str]) -> list[float]:
    scores = []
    for text, answer in zip(texts, answers, strict=True):
        found = re.findall(r"#### (-?[0-9.,]+)", text)
        scores.append(float(bool(found) and number(found[-1]) == number(answer)))
    return scores


def number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


@pytest.mark.benchmark(group="grade answers")
@pytest.mark.parametrize("side", ["ours", "python"])
def test_grade(benchmark, side) -> None:
    texts, answers = worked_answers(2000)
    assert grade(texts, answers).tolist() == python_grade(texts, answers)
    benchmark.extra_info["bytes"] = sum(len(text.encode()) for text in texts)
    benchmark(grade if side == "ours" else python_grade, texts, answers)
