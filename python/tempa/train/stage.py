"""What the training loop asks of the thing that is trained.

A stage hands out a step's micro-batches together with one denominator, counted before the first backward
pass, and returns losses as sums. Only the loop divides, so cutting a step into more or fewer micro-batches
does not change its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The loss of one micro-batch, not yet divided by anything.

    Attributes:
        total: Scalar sum over whatever the denominator counts; the loop backpropagates `total / denominator`.
        num_tokens: Tokens that the model read, for the rate shown.
        metrics: Name to (sum, count). Both are added up over the micro-batches, then divided for the log.
    """

    total: Tensor
    num_tokens: int = 0
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


class Stage(Protocol):
    """One way to train a model: pretraining, SFT, a preference loss, a policy gradient.

    Steps are numbered by how many have been finished: step 0 makes the first update, and a checkpoint or an
    evaluation "at step 100" sees the model after 100 updates. Subclass the protocol to inherit the defaults.
    """

    name: str

    def micro_batches(self, step: int) -> tuple[Sequence[Any], float]:
        """The pieces of update number `step`, and the count that their summed loss is divided by.

        A pure function of (seed, step) for stages that read data. A stage that samples from the model
        does it here. No pieces means that this step has nothing to learn from and updates nothing.
        """
        ...

    def loss(self, model: Any, micro: Any) -> Loss:
        """The summed loss of one piece. Runs under autocast when the run is in bf16."""
        ...

    def measures(self, step: int) -> dict[str, float]:  # noqa: ARG002
        """Measures of update `step` that belong to no piece, logged with it even if there was none."""
        return {}

    def evaluate(self, model: Any, step: int) -> dict[str, float]:
        """Held-out measures; the loop has switched gradients off and the model to evaluation mode."""
        ...

    def samples(self, model: Any, step: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """Rows for samples.jsonl, written after each evaluation."""
        return []

    def modules(self) -> dict[str, nn.Module]:
        """Modules trained beside the model, such as a value head; saved in checkpoints under their names."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run must know besides weights and step, as JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        if state:
            raise ValueError(f"{self.name} has no state, the checkpoint has {sorted(state)}")

    def can_save(self, step: int) -> bool:  # noqa: ARG002
        """Whether `state` is all there is to know after `step` updates; False while a rollout is in use."""
        return True
