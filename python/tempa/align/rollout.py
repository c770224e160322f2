"""Rollouts: responses sampled from the policy, scored, and turned into experience to learn from.

A response's randomness is a function of (seed, round, place in it, sample) alone. What scores it is what
sampled it: the same weights, the same temperature, no truncated distribution (traps P8-P11).
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa import _core
from tempa.align import advantages as adv
from tempa.align.grade import Reward, Task
from tempa.align.policy_loss import Policy, segment_sum
from tempa.align.reward import score
from tempa.align.sequences import packed, response_logps, split_by_tokens
from tempa.align.signals import kl_rewards, terminal_rewards
from tempa.chat import Rendered, render_batch
from tempa.engine import Engine, Sampling
from tempa.model import ScalarHead, Transformer
from tempa.tokenizer import Tokenizer

END = "<|end|>"

# Keeps the randomness of rollouts apart from everything else that is drawn with the same seed.
_ROLLOUT_STREAM = 0x524F_4C4C << 32


@dataclass(frozen=True)
class Response:
    """One answer of the policy.

    Attributes:
        task: What was asked.
        row: Prompt and response, with a mask on the response.
        logps: (R,) float32 log-probability of each response token when it was sampled.
        text: The response without its end token.
        is_finished: Whether it ended by itself; False if it met the length limit.
    """

    task: Task
    row: Rendered
    logps: NDArray[np.float32]
    text: str
    is_finished: bool


class Scorer(Protocol):
    """Scores a whole rollout."""

    def __call__(self, responses: Sequence[Response]) -> Tensor:
        """(n,) float32, one score for each response."""
        ...


@dataclass(frozen=True)
class Verified:
    """Scores texts with a function of the text and its task.

    Attributes:
        reward: The function; 0.0 is a score like any other (trap L14).
    """

    reward: Reward

    def __call__(self, responses: Sequence[Response]) -> Tensor:
        """(n,) float32.

        Raises:
            ValueError: If the function returns something that is not a finite number.
        """
        scores = [self.reward(response.text, response.task) for response in responses]
        for value, response in zip(scores, responses, strict=True):
            if not isinstance(value, numbers.Real) or not np.isfinite(value):
                raise ValueError(f"the reward of {response.text!r} is {value!r}, expected a finite number")
        return torch.tensor(scores, dtype=torch.float32)


@dataclass(frozen=True)
class Learned:
    """Scores responses with a reward model, which has learned to read the end token.

    Attributes:
        model: The reward model.
        truncated_score: Score of a response without an end, which the model cannot judge.
        micro_tokens: Tokens that are in memory at once.
    """

    model: ScalarHead
    truncated_score: float = -1.0
    micro_tokens: int = 8192

    def __call__(self, responses: Sequence[Response]) -> Tensor:
        """(n,) float32."""
        scores = torch.full((len(responses),), self.truncated_score)
        finished = [i for i, response in enumerate(responses) if response.is_finished]
        if finished:
            rows = [responses[i].row for i in finished]
            scores[finished] = score(self.model, rows, micro_tokens=self.micro_tokens)
        return scores


def render_prompts(tokenizer: Tokenizer, tasks: Sequence[Task]) -> list[Rendered]:
    """The conversations up to where the assistant begins to answer."""
    rendered = render_batch(tokenizer, [task.messages for task in tasks], add_generation_prompt=True)
    return [rendered[i] for i in range(len(rendered))]


def sample(
    engine: Engine,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
) -> list[Response]:
    """`num_samples` responses to each task, those of a task together.

    Args:
        engine: Holds the policy.
        tokenizer: Renders the conversations.
        tasks: What to answer.
        num_samples: Responses to each.
        max_new_tokens: The longest response.
        temperature: Of the sampling; 0 takes the likeliest token.
        seeds: One for each task.
    """
    prompts = render_prompts(tokenizer, tasks)
    end = tokenizer.special_tokens[END]
    requests = [
        Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, n=num_samples, stop_ids=(end,)
        )
        for seed in seeds
    ]
    responses = []
    completions = engine.generate([prompt.ids for prompt in prompts], requests)
    for task, prompt, group in zip(tasks, prompts, completions, strict=True):
        for completion in group:
            ids = np.concatenate([prompt.ids, completion.ids.astype(np.uint32)])
            mask = (np.arange(len(ids)) >= len(prompt.ids)).astype(np.uint8)
            is_finished = completion.finish_reason == "stop"
            row = Rendered(ids, mask)
            responses.append(Response(task, row, completion.logps, completion.text, is_finished))
    return responses


def rollout_seeds(seed: int, round_index: int, num_prompts: int) -> list[int]:
    """A seed for each place in a round, so far apart that samples, which count up from it, do not meet.

    It is the place and not the prompt that counts: a prompt that comes twice is answered anew.
    """
    bits = _core.random_bits(seed, _ROLLOUT_STREAM | round_index, 0, num_prompts)
    seeds: list[int] = (bits >> np.uint64(2)).tolist()
    return seeds


@dataclass(frozen=True)
class Experience:
    """Responses and all that an update needs to know about them; token tensors are flat over responses.

    Attributes:
        responses: Those that are learned from.
        offsets: (n + 1,) int64, boundaries of the responses in the token tensors.
        old_logps: (T,) when sampled.
        ref_logps: (T,) under the reference, if there is one.
        advantages: (T,)
        old_values: (T,) when sampled, if there is a value head.
        returns: (T,) what values should be, if there is a value head.
        summary: Means over the whole rollout, also of responses that were left out.
    """

    responses: list[Response]
    offsets: Tensor
    old_logps: Tensor
    ref_logps: Tensor | None
    advantages: Tensor
    old_values: Tensor | None
    returns: Tensor | None
    summary: dict[str, float]


def token_values(value: ScalarHead, rows: Sequence[Rendered], micro_tokens: int) -> tuple[Tensor, Tensor]:
    """Values of the states in which each response token was chosen, and of the state after the last one.

    Returns:
        (T,) and (n,) float32.
    """
    states, last = [], []
    for run in split_by_tokens([len(row.ids) for row in rows], micro_tokens):
        batch = packed(rows[run]).to(value.backbone.device)
        values = value(batch)
        states.append(values[batch.weights > 0].cpu())
        last.append(values[batch.cu_seqlens[1:] - 1].cpu())
    return torch.cat(states), torch.cat(last)


def token_logps(
    model: Transformer, rows: Sequence[Rendered], micro_tokens: int, *, temperature: float
) -> Tensor:
    """(T,) float32 log-probability of each response token."""
    runs = split_by_tokens([len(row.ids) for row in rows], micro_tokens)
    batches = (packed(rows[run]).to(model.device) for run in runs)
    return torch.cat([response_logps(model, batch, temperature=temperature).cpu() for batch in batches])


@torch.no_grad()
def make_experience(
    responses: list[Response],
    scores: Tensor,
    num_samples: int,
    policy: Policy,
    *,
    kl_coef: float = 0.0,
    ref_logps: Tensor | None = None,
    values: tuple[Tensor, Tensor] | None = None,
) -> Experience:
    """Turn scored responses into advantages.

    The divergence in the reward is added before any baseline. A value after a response that was cut off is
    bootstrapped; after one that ended it is 0 (ch4 R10).

    Args:
        responses: Those of one prompt together.
        scores: (n,) one for each.
        num_samples: Responses to each prompt.
        policy: The switches.
        kl_coef: Weight of the divergence.
        ref_logps: (T,) under the reference, see `token_logps`; None keeps no reference.
        values: (T,) and (n,) values, see `token_values`; for adv="gae".

    Raises:
        ValueError: If adv="gae" has no values.
    """
    lengths = torch.tensor([len(response.logps) for response in responses])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    old_logps = torch.from_numpy(np.concatenate([response.logps for response in responses]))
    finished = torch.tensor([response.is_finished for response in responses])

    if policy.kl and policy.kl[0] == "reward" and ref_logps is not None:
        rewards = kl_rewards(scores, old_logps, ref_logps, offsets, beta=kl_coef)
    else:
        rewards = terminal_rewards(scores, offsets)
    if policy.whiten_rewards:
        rewards = adv.whiten(rewards, shift_mean=False)

    old_values = returns = None
    if policy.is_grouped:
        totals = segment_sum(rewards, offsets).view(-1, num_samples)
        baselines = {"group_z": adv.group_z, "group": adv.group, "leave_one_out": adv.leave_one_out}
        advantages = baselines[policy.adv](totals).flatten().repeat_interleave(lengths)
    elif policy.adv == "gae":
        if values is None:
            raise ValueError("adv='gae' needs a value model")
        old_values, last_values = values[0], torch.where(finished, 0.0, values[1])
        advantages, returns = adv.gae(rewards, old_values, offsets, lam=policy.lam, last_values=last_values)
        advantages = adv.whiten(advantages)
    else:
        advantages = adv.reward_to_go(rewards, offsets)
        if policy.adv == "batch_z":
            advantages = adv.whiten(advantages)

    summary = {
        "reward": float(scores.mean()),
        "length": float(lengths.float().mean()),
        "stop_rate": float(finished.float().mean()),
        "entropy": float(-old_logps.mean()),
    }
    if ref_logps is not None:
        summary["kl"] = float(segment_sum(old_logps - ref_logps, offsets).mean())
    experience = Experience(
        responses, offsets, old_logps, ref_logps, advantages, old_values, returns, summary
    )
    kept = torch.ones(len(responses), dtype=torch.bool)
    if policy.skip_flat:
        kept &= ~adv.is_flat(scores.view(-1, num_samples)).repeat_interleave(num_samples)
    if policy.drop_truncated:
        kept &= finished
    return experience if bool(kept.all()) else take(experience, kept.nonzero().squeeze(1).tolist())


def take(experience: Experience, chosen: Sequence[int]) -> Experience:
    """The experience of some responses, in the given order."""
    offsets = experience.offsets
    index = torch.tensor(chosen, dtype=torch.int64)
    lengths = offsets.diff()[index]
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    # Token t of the chosen responses is token t - (its new start) + (its old start).
    tokens = torch.arange(int(boundaries[-1])) + (offsets[index] - boundaries[:-1]).repeat_interleave(lengths)

    def picked(flat: Tensor | None) -> Tensor | None:
        return None if flat is None else flat[tokens]

    return Experience(
        [experience.responses[i] for i in chosen],
        boundaries,
        experience.old_logps[tokens],
        picked(experience.ref_logps),
        experience.advantages[tokens],
        picked(experience.old_values),
        picked(experience.returns),
        experience.summary,
    )
