"""Policy-gradient losses: one formula with five switches, and its named settings.

Every algorithm is a row of `POLICIES`. Losses take flat tensors over the response tokens of several
responses plus their boundaries, and return sums; `Policy.denominator` says what a step's sum is divided by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tempa.ops import policy_cuda

Advantage = Literal["group_z", "group", "leave_one_out", "batch_z", "gae", "none"]
KLEstimator = Literal["k1", "k2", "k3"]
Mean = Literal["token", "sequence", "constant"]

# exp(20) is 4.9e8: far beyond any ratio worth learning from, far below what overflows (trap P7).
_MAX_LOG_RATIO = policy_cuda.MAX_LOG_RATIO


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy-gradient algorithm as five choices, and what goes with some of them.

    Attributes:
        adv: Baseline. Over the samples of a prompt: "group_z", "group", "leave_one_out". Per token: "gae"
            with a value head, "batch_z" (reward-to-go, whitened over the batch), "none" (plain reward-to-go).
        ratio: Probability ratio to the sampling policy per "token", or their geometric mean per "sequence".
        clip: How far below and above 1 the ratio still has a gradient; None does not clip.
        mean: "token" averages over all tokens of the step; "sequence" over responses, each the mean of its
            tokens; "constant" over responses, each the sum of its tokens by the longest length allowed.
        kl: Where divergence from the reference counts, and how it is estimated: in the "reward" by "k1", or
            in the "loss" by "k2" or "k3". None has no reference.
        lam: Weight of longer looks ahead in "gae".
        value_clip: How far a value may move from the one at sampling before its gradient stops; 0 is free.
        whiten_rewards: Whether the rewards of a rollout are scaled to deviation 1, their mean kept.
        skip_flat: Whether prompts whose samples all score the same are left out (Yu et al., 2025).
        drop_truncated: Whether responses that met the length limit are left out (Yu et al., 2025).
    """

    adv: Advantage
    ratio: Literal["token", "sequence"] = "token"
    clip: tuple[float, float] | None = (0.2, 0.2)
    mean: Mean = "token"
    kl: tuple[Literal["reward", "loss"], KLEstimator] | None = None
    lam: float = 0.95
    value_clip: float = 0.0
    whiten_rewards: bool = False
    skip_flat: bool = False
    drop_truncated: bool = False

    def __post_init__(self) -> None:
        if self.adv not in get_args(Advantage):
            raise ValueError(f"unknown advantage {self.adv!r}; known: {', '.join(get_args(Advantage))}")
        if self.ratio not in ("token", "sequence"):
            raise ValueError(f"ratio must be 'token' or 'sequence', got {self.ratio!r}")
        if self.mean not in get_args(Mean):
            raise ValueError(f"unknown mean {self.mean!r}; known: {', '.join(get_args(Mean))}")
        if self.clip is not None and not (0 < self.clip[0] <= 1 and self.clip[1] > 0):
            raise ValueError(f"clip must be (low, high) with 0 < low <= 1 and high > 0, got {self.clip}")
        if self.kl not in (None, ("reward", "k1"), ("loss", "k2"), ("loss", "k3")):
            raise ValueError(
                f"kl {self.kl} does not hold a policy to its reference: k1 has no gradient in the loss, k2"
                " and k3 a wrong one in the reward; use ('reward', 'k1'), ('loss', 'k2') or ('loss', 'k3')"
            )

        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must lie between 0 and 1, got {self.lam}")
        if self.value_clip < 0:
            raise ValueError(f"value_clip must not be negative, got {self.value_clip}")
        if self.skip_flat and not self.is_grouped:
            raise ValueError(f"skip_flat needs groups of samples, adv={self.adv!r} has none")

    @property
    def is_grouped(self) -> bool:
        """Whether the baseline compares samples of the same prompt."""
        return self.adv in ("group_z", "group", "leave_one_out")

    def token_weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        """(T,) how much each token of responses with these lengths counts in the sum."""
        if self.mean == "token":
            weights = torch.ones(len(lengths))
        elif self.mean == "sequence":
            weights = 1 / lengths.float()
        else:
            weights = torch.full((len(lengths),), 1 / max_tokens)
        return weights.to(lengths.device).repeat_interleave(lengths)

    def denominator(self, lengths: Tensor) -> float:
        """What the step's sum is divided by: its tokens, or its responses."""
        return float(lengths.sum() if self.mean == "token" else len(lengths))


POLICIES: dict[str, Policy] = {
    # Shao et al., 2024 (DeepSeekMath).
    "grpo": Policy(adv="group_z", mean="sequence", kl=("loss", "k3")),
    # Liu et al., 2025: no division by the deviation (trap P2) or by the response's length (trap P1).
    "dr_grpo": Policy(adv="group", mean="constant"),
    # Yu et al., 2025: token mean, more room upwards, nothing from prompts or responses that teach nothing.
    "dapo": Policy(adv="group_z", clip=(0.2, 0.28), mean="token", skip_flat=True, drop_truncated=True),
    # Zheng et al., 2025: one ratio per response, so much smaller ranges.
    "gspo": Policy(adv="group_z", ratio="sequence", clip=(3e-4, 4e-4), mean="sequence"),
    # Ahmadian et al., 2024.
    "rloo": Policy(adv="leave_one_out", clip=None, mean="constant", kl=("reward", "k1")),
    # Hu, 2025: one sample per prompt is enough.
    "reinforce_pp": Policy(adv="batch_z", mean="token", kl=("reward", "k1")),
    # Williams, 1992, with the divergence in the reward.
    "reinforce": Policy(adv="none", clip=None, mean="constant", kl=("reward", "k1")),
    # Schulman et al., 2017; Ouyang et al., 2022.
    "ppo": Policy(adv="gae", mean="token", kl=("reward", "k1"), value_clip=0.2),
}


@dataclass(frozen=True)
class PolicyTerms:
    """The weighted loss of some responses and what is worth logging about it.

    Attributes:
        total: Scalar; divide the sum over a step by `Policy.denominator`.
        log_ratio: (T,) log-probability now minus when sampled, without gradient.
        is_clipped: (T,) whether clipping removed the token's gradient.
        kl: (T,) the estimate in the loss, without gradient; zeros when there is none.
    """

    total: Tensor
    log_ratio: Tensor
    is_clipped: Tensor
    kl: Tensor


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    offsets: Tensor,
    *,
    policy: Policy,
    max_tokens: int,
    ref_logps: Tensor | None = None,
    kl_coef: float = 0.0,
) -> PolicyTerms:
    """`sum_t w_t [-min(rho_t A_t, clip(rho_t) A_t) + kl_coef kl_t]` (ch4 P2-P5, N2).

    Args:
        logps: (T,) log-probabilities now, with gradient.
        old_logps: (T,) log-probabilities when sampled.
        advantages: (T,) constants.
        offsets: (n + 1,) int64, response boundaries from 0 to T.
        policy: The switches.
        max_tokens: The longest response allowed; the length of mean="constant".
        ref_logps: (T,) log-probabilities under the reference, for a divergence in the loss.
        kl_coef: Weight of the divergence in the loss.

    Raises:
        ValueError: If the tensors do not have the same length.
    """
    shapes = {tuple(x.shape) for x in (logps, old_logps, advantages, ref_logps) if x is not None}
    if shapes != {(int(offsets[-1]),)}:
        raise ValueError(
            f"expected one value for each of {int(offsets[-1])} tokens, got shapes {sorted(shapes)}"
        )
    kind = policy.kl[1] if policy.kl is not None and policy.kl[0] == "loss" and kl_coef else None
    if kind is not None and ref_logps is None:
        raise ValueError("a divergence in the loss needs ref_logps")
    if policy_cuda.supports(logps):
        weight = {"token": 1.0, "sequence": 0.0, "constant": 1 / max_tokens}[policy.mean]
        total, _, moved, is_clipped, kl = torch.ops.tempa.policy_loss(
            *(logps, old_logps, advantages, offsets, None if kind is None else ref_logps, policy.clip),
            *(policy.ratio == "sequence", weight, 2 if kind == "k2" else 3, kl_coef),
        )
        return PolicyTerms(total, moved, is_clipped, kl)
    lengths = offsets.diff()
    log_ratio = logps - old_logps
    if policy.ratio == "sequence":
        log_ratio = (segment_sum(log_ratio, offsets) / lengths).repeat_interleave(lengths)
    ratio = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    surrogate, is_clipped = clipped_surrogate(ratio, advantages, policy.clip)
    loss, kl = -surrogate, torch.zeros_like(surrogate)
    if kind is not None and ref_logps is not None:
        kl = kl_estimate(logps, ref_logps, kind)
        loss = loss + kl_coef * kl
    total = (loss * policy.token_weights(lengths, max_tokens)).sum()
    return PolicyTerms(total, (logps - old_logps).detach(), is_clipped, kl.detach())


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """`min(rho A, clip(rho, 1 - low, 1 + high) A)` and where the clip holds (ch4 P3; Schulman et al., 2017).

    The printed `min(rho, 1 + eps) A` (ch4 X1) has no lower bound and, for a bad token, stops the gradient
    exactly when the token has become more likely.

    >>> clipped_surrogate(torch.tensor([0.5, 1.5]), torch.tensor([-1.0, -1.0]), (0.2, 0.2))[0].tolist()
    [-0.800000011920929, -1.5]
    """
    free = ratio * advantages
    if clip is None:
        return free, torch.zeros_like(free, dtype=torch.bool)
    bounded = ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages
    return torch.minimum(free, bounded), (bounded < free).detach()


def kl_estimate(logps: Tensor, ref_logps: Tensor, kind: KLEstimator) -> Tensor:
    """Estimate of KL(pi || ref) at tokens sampled from pi, `d = log pi - log ref` (ch4 N4; Schulman, 2020).

    `k1 = d`, `k2 = d^2 / 2`, `k3 = e^-d - 1 + d`. As values, k1 and k3 are unbiased. As losses, the gradient
    of k1 has mean zero, that of k2 is the gradient of KL(pi || ref), that of k3 of KL(ref || pi) (trap P5);
    of each token given its prefix: what a token does to the divergence of later ones, only a reward sees.
    """
    d = (logps - ref_logps).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    return torch.expm1(-d) + d


def value_loss(
    values: Tensor, returns: Tensor, *, old_values: Tensor | None = None, clip: float = 0.0
) -> Tensor:
    """`max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) / 2` per token; no clip at c = 0 (ch4 R11, N5).

    Raises:
        ValueError: If there is a clip and no old values.
    """
    loss = (values - returns).square()
    if clip:
        if old_values is None:
            raise ValueError("clipping the value needs old_values")
        bounded = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (bounded - returns).square())
    return loss / 2


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """(n,) sum of each response's values."""
    lengths = offsets.diff()
    rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return torch.zeros(len(lengths), dtype=values.dtype, device=values.device).index_add(0, rows, values)
