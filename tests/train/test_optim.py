import pytest
import torch
from torch import nn

from tempa.model import ModelConfig, ScalarHead, Transformer
from tempa.train.adamw import AdamW
from tempa.train.optim import Optimizer, clip_gradients, split_parameters
from tempa.train.settings import TrainConfig

SHAPE = ModelConfig(vocab_size=11, depth=2, width=8, num_heads=2, tied=False)


@pytest.fixture(params=[False, True], ids=["torch", "kernel"])
def is_fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether AdamW is that of CUDA, with the CPU side of the operator in place of the kernel."""
    monkeypatch.setattr(AdamW, "supports", lambda _: request.param)
    return request.param


def test_hidden_matrices_are_those_in_the_stack_of_blocks() -> None:
    roles = split_parameters([("", Transformer(SHAPE))])
    assert set(roles["hidden"]) == {
        f"blocks.{i}.{name}.weight"
        for i in range(2)
        for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    }
    assert set(roles["matrices"]) == {"embedding.weight", "head.weight"}
    assert all(parameter.ndim == 1 for parameter in roles["vectors"].values())


def test_every_parameter_has_one_role_and_frozen_ones_have_none() -> None:
    model = ScalarHead(Transformer(SHAPE))
    model.backbone.embedding.weight.requires_grad_(False)
    roles = split_parameters([("value.", model)])
    names = [name for group in roles.values() for name in group]
    expected = {f"value.{name}" for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(names) == len(set(names))
    assert set(names) == expected


@pytest.mark.usefixtures("is_fused")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_moves_every_parameter(optimizer: str) -> None:
    model = Transformer(SHAPE)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = Optimizer([("", model)], TrainConfig(optimizer=optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    moved.step(1.0)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_adamw_is_torchs_adamw_with_decay_on_matrices_only() -> None:
    torch.manual_seed(0)
    model, twin = Transformer(SHAPE, seed=1), Transformer(SHAPE, seed=1)
    config = TrainConfig(optimizer="adamw", lr=0.01, weight_decay=0.5, betas=(0.8, 0.9))
    ours = Optimizer([("", model)], config)
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim == 2], "weight_decay": 0.5},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.005, betas=(0.8, 0.9))
    for _ in range(3):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step(0.5)
        theirs.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def train_steps(model: Transformer, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1 / (step + 1))


def test_adamw_of_cuda_equals_that_of_the_cpu_and_takes_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(optimizer="adamw", lr=0.01, weight_decay=0.5, betas=(0.8, 0.9))
    models, optimizers = [], []
    for is_fused in (False, True):
        monkeypatch.setattr(AdamW, "supports", lambda _, is_fused=is_fused: is_fused)
        models.append(Transformer(SHAPE, seed=1))
        optimizers.append(Optimizer([("", models[-1])], config))
    for model, optimizer in zip(models, optimizers, strict=True):
        train_steps(model, optimizer, 0, 3)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q)
    theirs, ours = (optimizer.state() for optimizer in optimizers)
    assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {
        name: (t.shape, t.dtype) for name, t in theirs.items()
    }
    torch.testing.assert_close(ours, theirs)
    optimizers[1].load_state({name: tensor.clone() for name, tensor in theirs.items()})
    optimizers[0].load_state({name: tensor.clone() for name, tensor in ours.items()})
    for model, optimizer in zip(models, optimizers, strict=True):
        train_steps(model, optimizer, 3, 5)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.usefixtures("is_fused")
def test_a_parameter_without_a_gradient_stays_and_falls_a_step_behind() -> None:
    model, twin = Transformer(SHAPE, seed=1), Transformer(SHAPE, seed=1)
    config = TrainConfig(optimizer="adamw", lr=0.01)
    ours = Optimizer([("", model)], config)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=config.betas, weight_decay=0.0)
    for step in range(3):
        for i, (p, q) in enumerate(zip(model.parameters(), twin.parameters(), strict=True)):
            if p.ndim == 1 and (step != 1 or i % 2):
                p.grad, q.grad = torch.full_like(p, step + 1.0), torch.full_like(q, step + 1.0)
        ours.step(1.0)
        theirs.step()
        theirs.zero_grad()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.usefixtures("is_fused")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_taken_to_a_new_optimizer_continues_bit_for_bit(name: str) -> None:
    config = TrainConfig(optimizer=name)
    straight = Transformer(SHAPE)
    train_steps(straight, Optimizer([("", straight)], config), 0, 6)

    first = Transformer(SHAPE)
    optimizer = Optimizer([("", first)], config)
    train_steps(first, optimizer, 0, 3)
    second = Transformer(SHAPE)
    second.load_state_dict(first.state_dict())
    resumed = Optimizer([("", second)], config)
    resumed.load_state({key: value.clone() for key, value in optimizer.state().items()})
    train_steps(second, resumed, 3, 6)
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), second.parameters(), strict=True))


def test_state_of_another_model_is_refused() -> None:
    optimizer = Optimizer([("", Transformer(SHAPE))], TrainConfig())
    with pytest.raises(ValueError, match=r"'exp_avg\.nowhere' fits no parameter"):
        optimizer.load_state({"exp_avg.nowhere": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'exp_avg\.embedding\.weight' fits no parameter"):
        optimizer.load_state({"exp_avg.embedding.weight": torch.zeros(3, 3)})


@pytest.mark.usefixtures("is_fused")
def test_describe_names_optimizers_counts_and_rates() -> None:
    text = Optimizer([("", Transformer(SHAPE))], TrainConfig(lr=0.5, muon_lr=0.25)).describe()
    assert "Muon   8 tensors, 1,536 parameters, lr 0.25" in text
    assert "AdamW  2 tensors, 176 parameters, lr 0.5" in text


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        Optimizer([("", nn.Linear(2, 2).requires_grad_(False))], TrainConfig())


def test_clipping_scales_all_gradients_to_the_joint_norm() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert float(clip_gradients(weights, 1.0)) == 5.0
    torch.testing.assert_close(weights[0].grad, torch.tensor([0.6, 0.0]))
    assert float(clip_gradients(weights, 0.0)) == pytest.approx(1.0)
    assert weights[1].grad is not None
    torch.testing.assert_close(weights[1].grad, torch.tensor([0.8]))
