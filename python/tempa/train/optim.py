"""Which optimizer moves which parameter, and one object that steps them all.

AdamW moves everything, or Muon moves the hidden matrices and AdamW the embeddings, heads and vectors. The
choice is made by where a parameter sits and by its shape, and `Optimizer.describe` says what was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tempa.train.adamw import AdamW
from tempa.train.muon import Muon
from tempa.train.settings import TrainConfig


def split_parameters(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, dict[str, nn.Parameter]]:
    """The trainable parameters by role: "hidden" matrices, other "matrices" and "vectors".

    Hidden is a matrix inside a stack of layers (`nn.ModuleList`): input and output there are features.
    Embeddings and heads have tokens on one side, where orthogonal updates make no sense.
    """
    roles: dict[str, dict[str, nn.Parameter]] = {"hidden": {}, "matrices": {}, "vectors": {}}
    for prefix, module in modules:
        stacks = [name for name, child in module.named_modules() if isinstance(child, nn.ModuleList)]
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.ndim < 2:
                role = "vectors"
            else:
                role = "hidden" if any(name.startswith(f"{stack}.") for stack in stacks) else "matrices"
            roles[role][prefix + name] = parameter
    return roles


class Optimizer:
    """AdamW, or Muon and AdamW, over named parameters.

    Matrices are decayed, vectors are not. State is kept and saved under the parameters' names.

    Args:
        modules: (prefix, module) pairs; a parameter is known as prefix + its name in the module.
        config: Rates, decay and the choice of optimizer.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]], config: TrainConfig) -> None:
        roles = split_parameters(modules)
        self.parameters = {name: p for group in roles.values() for name, p in group.items()}
        if not self.parameters:
            raise ValueError("the model has no trainable parameters")
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        adamw = roles
        if config.optimizer == "muon" and roles["hidden"]:
            adamw = {role: group for role, group in roles.items() if role != "hidden"}
            muon = Muon(
                roles["hidden"].values(),
                lr=config.muon_lr,
                momentum=config.betas[0],
                weight_decay=config.weight_decay,
            )
            self._optimizers.append((muon, config.muon_lr))
        groups = [
            {
                "params": list(group.values()),
                "weight_decay": 0.0 if role == "vectors" else config.weight_decay,
            }
            for role, group in adamw.items()
            if group
        ]
        if groups:
            optimizer: torch.optim.Optimizer
            if AdamW.supports(p for group in adamw.values() for p in group.values()):
                optimizer = AdamW(groups, config.lr, betas=config.betas)
            else:
                optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
            self._optimizers.append((optimizer, config.lr))

    def step(self, scale: float) -> None:
        """Update every parameter with its peak rate times `scale`, then drop the gradients."""
        for optimizer, lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * scale
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer, _ in self._optimizers:
            optimizer.zero_grad()

    def describe(self) -> str:
        """One line per group: the optimizer, how many tensors and parameters it moves, its peak rate."""
        lines = []
        for optimizer, lr in self._optimizers:
            for group in optimizer.param_groups:
                count = sum(parameter.numel() for parameter in group["params"])
                lines.append(
                    f"{type(optimizer).__name__:<5}  {len(group['params'])} tensors, {count:,} parameters, "
                    f"lr {lr:g}, weight decay {group['weight_decay']:g}"
                )
        return "\n".join(lines)

    def state(self) -> dict[str, Tensor]:
        """The running means, as flat names to tensors: `exp_avg.blocks.0.up` and the like."""
        tensors = {}
        for optimizer, _ in self._optimizers:
            for name, parameter in self.parameters.items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"{key}.{name}"] = value
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            ValueError: If a tensor belongs to no parameter or has another shape.
        """
        owners = {
            parameter: optimizer
            for optimizer, _ in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for full_name, tensor in tensors.items():
            key, _, name = full_name.partition(".")
            parameter = self.parameters.get(name)
            if parameter is None or tensor.shape not in (parameter.shape, ()):
                raise ValueError(f"optimizer state {full_name!r} fits no parameter of this model")
            owners[parameter].state[parameter][key] = tensor.to(parameter.device)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm`; return the norm before.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: 0 leaves the gradients as they are.
    """
    with_grad = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_grad if p.grad is not None], foreach=True)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(with_grad, max_norm, norm, foreach=True)
    return norm
