"""Learning-rate schedules: the rate of an update is a pure function of its number.

Nothing is stepped, so nothing can be stepped twice or lost at a restart. Update numbers begin at 0.
"""

from __future__ import annotations

import math

from tempa.train.settings import TrainConfig


def lr_scale(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` as a share of the peak.

    The rate rises in `warmup_steps` equal steps, the first of which is not zero; then it follows the schedule
    and reaches `min_lr_ratio` at the last update ("constant" stays at the peak).

    >>> config = TrainConfig(steps=100, warmup_steps=4, min_lr_ratio=0.1)
    >>> [round(lr_scale(step, config), 2) for step in (0, 3, 51, 99)]
    [0.25, 1.0, 0.55, 0.1]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        fall = config.steps - config.warmup_steps
    else:
        fall = min(round(config.decay_fraction * config.steps), config.steps - config.warmup_steps)
    # The share of the fall that is behind us once this update is made; 1 at the last update.
    done = min(max(step + 1 - (config.steps - fall), 0) / max(fall, 1), 1.0)
    height = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * height
