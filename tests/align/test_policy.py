import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from tempa.align.grade import Task
from tempa.align.grpo import GrpoConfig, GrpoSettings, grpo
from tempa.align.policy import PolicySettings, PolicyStage, fit_policy
from tempa.align.policy_loss import POLICIES, Policy
from tempa.align.ppo import PpoConfig, PpoSettings, ppo
from tempa.align.rollout import Verified
from tempa.model import ScalarHead, save_model
from tempa.train.run import RunDir

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
TASKS = [Task(({"role": "user", "content": word},), word) for word in WORDS]


def early_letters(text, task):
    """A reward that a tiny model learns in seconds."""
    return sum(letter in "abcdefghijkl" for letter in text) / max(len(text), 1)


def stage_of(model, tokenizer, name="dr_grpo", settings=GrpoSettings, *, policy=None, **changes):
    changes = {"batch_size": 4, "samples": 4, "max_new_tokens": 6, **changes}
    if settings is not GrpoSettings:
        del changes["samples"]
    return PolicyStage(
        model,
        tokenizer,
        TASKS,
        [],
        Verified(early_letters),
        policy or POLICIES[name],
        settings(**changes),
        value=ScalarHead(copy.deepcopy(model)) if name == "ppo" else None,
    )


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "ppo"])
@pytest.mark.parametrize("rows", [4, 1])
def test_trap_l1_the_gradient_does_not_depend_on_the_layout(
    model, tokenizer, gradient, relative, monkeypatch, name, rows
):
    """For PPO, that of the value model included."""
    changes = {"settings": PpoSettings, "batch_size": 16, "minibatches": 1} if name == "ppo" else {}
    stage = stage_of(model, tokenizer, name, **changes)
    whole = gradient(model, stage)
    assert len(stage.micro_batches(0)[0]) == 1
    pieces = [slice(i, i + rows) for i in range(0, 16, rows)]
    monkeypatch.setattr("tempa.align.policy.split_by_tokens", lambda *_: pieces)
    assert len(stage.micro_batches(0)[0]) == 16 // rows
    assert relative(gradient(model, stage), whole) < 1e-6


def test_trap_l1_the_mean_of_means_is_another_gradient(stopping_model, tokenizer, gradient, relative):
    """The mutant: each micro-batch divided by its own count."""

    class MeanOfMeans(PolicyStage):
        def micro_batches(self, step):
            micros, _ = super().micro_batches(step)
            return micros, float(len(micros))

        def loss(self, model, micro):
            loss = super().loss(model, micro)
            own = float(micro.experience.offsets[-1])
            return dataclasses.replace(loss, total=loss.total / own)

    policy = Policy(adv="group", mean="token")
    stage = stage_of(stopping_model, tokenizer, policy=policy, micro_tokens=1)
    right = gradient(stopping_model, stage)
    stage.__class__ = MeanOfMeans
    assert relative(gradient(stopping_model, stage), right) > 0.1


def test_the_first_update_has_ratio_one(model, tokenizer):
    """Ch4 P2; trap P8."""
    stage = stage_of(model, tokenizer)
    for micro in stage.micro_batches(0)[0]:
        loss = stage.loss(model, micro)
        total, count = loss.metrics["logp_gap"]
        assert float(total) / count < 1e-5
        assert float(loss.metrics["clip_fraction"][0]) == 0


def test_trap_p9_another_temperature_is_noticed(model, tokenizer):
    stage = stage_of(model, tokenizer, temperature=0.7)
    micros, _ = stage.micro_batches(0)
    stage.settings = dataclasses.replace(stage.settings, temperature=1.0)
    with pytest.raises(ValueError, match="trainer and sampler disagree"):
        stage.loss(model, micros[0])


def test_trap_p10_stale_rollouts_are_noticed(model, tokenizer):
    stage = stage_of(model, tokenizer)
    micros, _ = stage.micro_batches(0)
    with torch.no_grad():
        model.embedding.weight *= 1.1
    with pytest.raises(ValueError, match="the weights changed"):
        stage.loss(model, micros[0])


def test_a_round_uses_every_response_once_an_epoch(model, tokenizer):
    stage = stage_of(model, tokenizer, "ppo", PpoSettings, minibatches=3, epochs=2, batch_size=8)
    for _ in range(2):
        seen = []
        for update in range(3):
            micros, _ = stage.micro_batches(update)
            assert all(micro.is_fresh == (update == 0) for micro in micros)
            seen += [id(response) for micro in micros for response in micro.experience.responses]
        assert len(seen) == len(set(seen)) == 8
    assert [stage.can_save(step) for step in range(7)] == [True, *[False] * 5, True]


def test_trap_l3_the_denominator_counts_what_is_kept(stopping_model, tokenizer):
    policy = Policy(adv="group", mean="token", drop_truncated=True)
    stage = stage_of(stopping_model, tokenizer, policy=policy)
    micros, denominator = stage.micro_batches(0)
    responses = stage.experience.responses
    assert 0 < len(responses) < 16
    assert all(response.is_finished for response in responses)
    assert denominator == sum(len(response.logps) for response in responses)
    assert denominator == sum(int(micro.batch.weights.sum()) for micro in micros)


def test_a_rollout_without_anything_to_learn_is_still_logged(model, tokenizer, tmp_path):
    """Trap P3: nothing moves, and the log says what happened."""
    settings = GrpoSettings(steps=1, batch_size=2, samples=2, max_new_tokens=2, log_every=1, eval_every=0)
    before = copy.deepcopy(model.state_dict())
    policy = Policy(adv="group", skip_flat=True)
    run = RunDir.open(tmp_path, settings)
    fit_policy(model, tokenizer, TASKS, [], Verified(lambda *_: 1.0), policy, settings, run)
    (row,) = [row["train"] for row in run.rows() if "train" in row]
    assert row["reward"] == 1
    assert "loss" not in row
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", POLICIES)
def test_every_row_learns_a_toy_task(new_model, tokenizer, tmp_path, name):
    model = new_model()
    settings = PpoSettings if name == "ppo" else GrpoSettings
    changes = {"epochs": 1} if name == "ppo" else {"samples": 8}
    # A random model hardly ever stops by itself, so DAPO's filter would leave nothing.
    policy = dataclasses.replace(POLICIES[name], drop_truncated=False)
    settings = settings(
        steps=20,
        lr=1e-2,
        batch_size=64 if name == "ppo" else 8,
        max_new_tokens=4,
        minibatches=1,
        kl_coef=1e-3 if policy.kl else 0.0,
        eval_every=0,
        warmup_steps=0,
        log_every=1,
        **changes,
    )
    value = ScalarHead(copy.deepcopy(model)) if name == "ppo" else None
    run = RunDir.open(tmp_path, settings)
    fit_policy(model, tokenizer, TASKS, TASKS, Verified(early_letters), policy, settings, run, value=value)
    rewards = [row["train"]["reward"] for row in run.rows() if "train" in row]
    assert np.mean(rewards[:3]) < 0.3
    assert np.mean(rewards[-3:]) > 2 * np.mean(rewards[:3])


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(new_model, tokenizer, tmp_path, name):
    """Between rounds; reference and value model included."""
    settings = PpoSettings if name == "ppo" else GrpoSettings
    settings = settings(
        steps=8, save_every=3, batch_size=4, max_new_tokens=4, minibatches=2, kl_coef=0.1, eval_every=0
    )

    def weights():
        model = new_model()
        value = ScalarHead(copy.deepcopy(model)) if name == "ppo" else None
        run = RunDir.open(tmp_path / "run", settings)
        scorer, policy = Verified(early_letters), POLICIES[name]
        fit_policy(model, tokenizer, TASKS, [], scorer, policy, settings, run, value=value)
        return torch.cat([p.flatten() for m in (model, value) if m for p in m.parameters()])

    whole = weights()
    # Saving is asked for at 3 and 6; a round is 2 updates for GRPO and 4 for PPO, and 2 checkpoints are kept.
    steps = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == [f"step-00000{4 if name == 'ppo' else 6}", "step-000008"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000008")
    assert torch.equal(weights(), whole)


def test_the_recipes_read_files(model, tokenizer, tmp_path):
    save_model(tmp_path / "base", model, tokenizer)
    save_model(tmp_path / "reward", ScalarHead(copy.deepcopy(model)), tokenizer)
    rows = [{"prompt": word, "answer": "cat"} for word in WORDS]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {"model": tmp_path / "base", "data": tmp_path / "tasks.jsonl"}
    small = {"steps": 2, "batch_size": 2, "max_new_tokens": 3}
    result = grpo(
        GrpoConfig(**paths, out=tmp_path / "grpo", samples=2, algorithm="rloo", kl_coef=0.1, **small)
    )
    assert {"reward", "length", "stop_rate"} <= set(result.metrics)
    samples = [json.loads(line) for line in result.run.samples.read_text().splitlines()]
    assert samples[0]["prompt"] in WORDS
    result = ppo(PpoConfig(**paths, out=tmp_path / "ppo", reward=tmp_path / "reward", **small))
    assert (result.checkpoint / "value.safetensors").exists()


def test_what_does_not_go_together_is_refused(model, tokenizer):
    def stage(name, settings=None, *, value=None, tasks=TASKS):
        scorer = Verified(early_letters)
        return PolicyStage(
            model, tokenizer, tasks, [], scorer, POLICIES[name], settings or GrpoSettings(), value=value
        )

    with pytest.raises(ValueError, match="no value model"):
        stage("ppo", PpoSettings())
    with pytest.raises(ValueError, match="a value model"):
        stage("grpo", value=ScalarHead(model))
    with pytest.raises(ValueError, match="samples must be at least 2"):
        stage("grpo", GrpoSettings(samples=1))
    with pytest.raises(ValueError, match="no divergence"):
        stage("dr_grpo", GrpoSettings(kl_coef=0.1))
    with pytest.raises(ValueError, match="none of 8 prompts leaves room for 200 new tokens"):
        stage("grpo", GrpoSettings(max_new_tokens=200))


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (GrpoSettings, {"samples": 0}),
        (PpoSettings, {"epochs": 0}),
        (PolicySettings, {"max_new_tokens": 0}),
        (PolicySettings, {"minibatches": 0}),
        (PolicySettings, {"temperature": 0.0}),
        (PolicySettings, {"kl_coef": -1.0}),
    ],
)
def test_settings_out_of_range_name_the_field(settings, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        settings(**setting)
