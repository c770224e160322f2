import numpy as np
import pytest
import torch

from tempa.align.grade import Task
from tempa.align.policy_loss import POLICIES, Policy
from tempa.align.rollout import (
    Learned,
    Response,
    Verified,
    make_experience,
    rollout_seeds,
    sample,
    take,
    token_logps,
    token_values,
)
from tempa.align.sequences import packed
from tempa.chat import Rendered, render
from tempa.engine import Engine
from tempa.model import ScalarHead

TASKS = [Task(({"role": "user", "content": word},), word) for word in ("one", "two", "three")]


def rollout(model, tokenizer, tasks=TASKS, *, temperature=1.0, num_samples=4, seeds=None):
    return sample(
        Engine(model, tokenizer),
        tokenizer,
        tasks,
        num_samples=num_samples,
        max_new_tokens=8,
        temperature=temperature,
        seeds=seeds or rollout_seeds(0, 0, len(tasks)),
    )


def response(length, *, finished=True, logp=-1.0):
    row = Rendered(np.zeros(length + 1, np.uint32), np.array([0] + [1] * length, np.uint8))
    return Response(TASKS[0], row, np.full(length, logp, np.float32), "", finished)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_traps_p8_p9_the_sampler_and_the_trainer_agree(model, tokenizer, temperature):
    """Same engine, same temperature, same weights: one log-probability."""
    responses = rollout(model, tokenizer, temperature=temperature)
    sampled = torch.from_numpy(np.concatenate([r.logps for r in responses]))
    rows = [r.row for r in responses]
    trained = token_logps(model, rows, 10_000, temperature=temperature)
    torch.testing.assert_close(sampled, trained.detach(), atol=1e-5, rtol=0)
    one_row_at_a_time = token_logps(model, rows, 1, temperature=temperature)
    torch.testing.assert_close(sampled, one_row_at_a_time.detach(), atol=1e-5, rtol=0)


def test_trap_p10_rollouts_come_from_the_current_weights(model, tokenizer):
    engine = Engine(model, tokenizer)
    settings = {"num_samples": 4, "max_new_tokens": 8, "temperature": 1.0, "seeds": [1, 2, 3]}
    before = sample(engine, tokenizer, TASKS, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    after = sample(engine, tokenizer, TASKS, **settings)
    assert [r.text for r in before] != [r.text for r in after]
    sampled = torch.from_numpy(np.concatenate([r.logps for r in after]))
    trained = token_logps(model, [r.row for r in after], 10_000, temperature=1.0)
    torch.testing.assert_close(sampled, trained.detach(), atol=1e-5, rtol=0)


def test_trap_p13_the_mask_covers_the_response_and_its_end(stopping_model, tokenizer):
    """Nothing follows the end token, and it is part of the response."""
    end = tokenizer.special_tokens["<|end|>"]
    responses = rollout(stopping_model, tokenizer)
    assert {r.is_finished for r in responses} == {False, True}
    for r in responses:
        prompt = render(tokenizer, r.task.messages, add_generation_prompt=True).ids
        generated = r.row.ids[r.row.mask == 1].tolist()
        assert r.row.ids[: len(prompt)].tolist() == prompt.tolist()
        assert r.row.mask.tolist() == [0] * len(prompt) + [1] * len(generated)
        assert len(generated) == len(r.logps)
        assert generated.count(end) == int(r.is_finished) == int(generated[-1] == end)
        assert r.text == tokenizer.decode(generated[: len(generated) - r.is_finished])


def test_trap_l13_what_is_trained_are_the_sampled_ids_and_not_their_text_again(model, tokenizer):
    """A random model says tokens that its text would not be cut into."""
    responses = rollout(model, tokenizer)
    generated = [r.row.ids[r.row.mask == 1].tolist() for r in responses]
    assert any(tokenizer.encode(r.text) != ids for r, ids in zip(responses, generated, strict=True))
    for r, ids in zip(responses, generated, strict=True):
        prompt = r.row.ids[r.row.mask == 0]
        (scores,) = Engine(model, tokenizer).score(prompt, [ids])
        np.testing.assert_allclose(r.logps, scores, atol=1e-5)


def test_a_response_depends_on_its_seed_and_not_on_the_batch(model, tokenizer):
    together = rollout(model, tokenizer)
    alone = rollout(model, tokenizer, TASKS[2:], seeds=rollout_seeds(0, 0, 3)[2:])
    assert [r.text for r in together[8:]] == [r.text for r in alone]


def test_a_prompt_that_comes_twice_is_answered_anew(model, tokenizer):
    responses = rollout(model, tokenizer, [TASKS[0]] * 8)
    assert len({r.text for r in responses}) == 32
    seeds = {seed for s in range(3) for round_index in range(3) for seed in rollout_seeds(s, round_index, 9)}
    assert len(seeds) == 81


def test_trap_l16_a_response_keeps_its_task(model, tokenizer):
    responses = rollout(model, tokenizer)
    for r in responses:
        assert f"<|user|>{r.task.answer}<|end|>" in tokenizer.decode(r.row.ids)
    scores = Verified(lambda _, task: float(task.answer == "two"))(responses)
    assert scores.tolist() == [0] * 4 + [1] * 4 + [0] * 4


def test_trap_l14_a_reward_of_zero_is_a_reward():
    for zero in (0.0, 0, False, np.float32(0)):
        assert Verified(lambda *_, zero=zero: zero)([response(1)]).tolist() == [0.0]
    for wrong in (None, float("nan"), "1"):
        with pytest.raises(ValueError, match="expected a finite number"):
            Verified(lambda *_, wrong=wrong: wrong)([response(1)])


def test_a_reward_model_judges_only_what_has_an_end(model, tokenizer):
    """Ch4 N5: a response that was cut off gets a fixed score, never that of an arbitrary token."""
    head = ScalarHead(model)
    with torch.no_grad():
        head.scalar.bias.fill_(7.0)
    scores = Learned(head, truncated_score=-2.0)([response(2, finished=False), response(3), response(1)])
    assert scores.tolist() == [-2.0, 7.0, 7.0]
    assert Learned(head)([response(2, finished=False)]).tolist() == [-1.0]


def test_values_are_those_of_the_state_in_which_a_token_was_chosen(model, tokenizer):
    """The value of the first response token is read at the last prompt token."""
    head = ScalarHead(model)
    with torch.no_grad():
        head.scalar.weight.normal_(generator=torch.Generator().manual_seed(0))
    responses = rollout(model, tokenizer)
    rows = [r.row for r in responses]
    states, last = token_values(head, rows, 64)
    start = 0
    for row, final in zip(rows, last, strict=True):
        values = head(packed([row])).detach()
        first, length = int(row.mask.argmax()), int(row.mask.sum())
        torch.testing.assert_close(
            states[start : start + length].detach(), values[first - 1 : -1], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(final.detach(), values[-1], atol=1e-5, rtol=1e-5)
        start += length


def experience_of(responses, scores, policy, *, num_samples=2, **known):
    return make_experience(responses, torch.tensor(scores), num_samples, policy, **known)


def test_an_advantage_is_that_of_every_token_of_its_response():
    responses = [response(1), response(3), response(2), response(2)]
    experience = experience_of(responses, [1.0, 0.0, 5.0, 5.0], POLICIES["grpo"])
    assert experience.advantages.tolist() == [1, -1, -1, -1, 0, 0, 0, 0]
    assert experience.offsets.tolist() == [0, 1, 4, 6, 8]
    assert experience.summary["reward"] == 2.75


def test_the_divergence_in_the_reward_comes_before_the_baseline():
    """RLOO: R - beta * sum of k1 within the response, then the others' mean."""
    responses = [response(1, logp=-1.0), response(2, logp=-2.0)]
    reference = torch.full((3,), -1.5)
    experience = experience_of(responses, [1.0, 1.0], POLICIES["rloo"], kl_coef=0.1, ref_logps=reference)
    first, second = 1 - 0.1 * 0.5, 1 - 0.1 * -1.0
    expected = torch.tensor([first - second, second - first, second - first])
    torch.testing.assert_close(experience.advantages, expected)
    assert experience.summary["kl"] == pytest.approx((0.5 - 1.0) / 2)


@pytest.mark.parametrize(("finished", "bootstrap"), [(True, 0.0), (False, 4.0)])
def test_only_a_response_that_was_cut_off_is_bootstrapped(finished, bootstrap):
    """Ch4 R10."""
    policy = Policy(adv="gae", lam=1.0)
    values = torch.tensor([1.0, 2.0]), torch.tensor([4.0])
    experience = experience_of([response(2, finished=finished)], [3.0], policy, num_samples=1, values=values)
    assert experience.returns.tolist() == [3.0 + bootstrap] * 2
    assert experience.old_values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="value model"):
        experience_of([response(2)], [3.0], policy)


def test_token_advantages_are_whitened_over_the_rollout():
    experience = experience_of(
        [response(1), response(2), response(3)], [1.0, 2.0, 4.0], POLICIES["reinforce_pp"]
    )
    assert experience.advantages.mean().abs() < 1e-6
    assert experience.advantages.std(correction=0) == pytest.approx(1)
    plain = experience_of([response(1), response(2)], [1.0, 2.0], POLICIES["reinforce"])
    assert plain.advantages.tolist() == [1, 2, 2]


def test_whitened_rewards_keep_their_mean():
    policy = Policy(adv="none", whiten_rewards=True)
    experience = experience_of([response(1), response(1)], [1.0, 5.0], policy)
    torch.testing.assert_close(experience.advantages, torch.tensor([2.0, 4.0]))


def test_filters_leave_out_what_teaches_nothing():
    """Traps L3 and P3: left out before the step is counted, though still in the summary."""
    responses = [response(1), response(2), response(3), response(4, finished=False)]
    policy = Policy(adv="group", skip_flat=True)
    assert [len(r.logps) for r in experience_of(responses, [1.0, 1.0, 1.0, 0.0], policy).responses] == [3, 4]
    policy = Policy(adv="group", drop_truncated=True)
    kept = experience_of(responses, [1.0, 0.0, 1.0, 0.0], policy)
    assert [len(r.logps) for r in kept.responses] == [1, 2, 3]
    assert kept.advantages.tolist() == [0.5, -0.5, -0.5, 0.5, 0.5, 0.5]
    assert (kept.summary["stop_rate"], kept.summary["reward"]) == (0.75, 0.5)


def test_taking_responses_takes_their_tokens():
    responses = [response(1, logp=-1.0), response(2, logp=-2.0), response(3, logp=-3.0)]
    experience = experience_of(responses, [1.0, 2.0, 3.0], POLICIES["reinforce"])
    part = take(experience, [2, 0])
    assert part.offsets.tolist() == [0, 3, 4]
    assert part.old_logps.tolist() == [-3, -3, -3, -1]
    assert part.advantages.tolist() == [3, 3, 3, 1]
    assert take(experience, []).old_logps.tolist() == []
