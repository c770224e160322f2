"""What the sampler takes, refuses and keeps; traps of samplers by name."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tempa import Tokenizer
from tempa.sample import Sampler, Settings, rule_adapter

ROWS = np.random.default_rng(0).normal(0, 2, (6, 1000)).astype(np.float32)


def drawn(logits: object, **keywords: object) -> list[int]:
    sampler = Sampler(1000)
    handles = [sampler.add(Settings(), seed=i) for i in range(6)]
    ids: list[int] = sampler.step(handles, logits, **keywords).ids.tolist()
    return ids


def test_arrays_and_tensors_of_either_precision_are_read_where_they_are() -> None:
    assert drawn(torch.from_numpy(ROWS)) == drawn(ROWS)
    tensor = torch.from_numpy(ROWS).bfloat16()
    assert drawn(tensor) == drawn(tensor.float()) == drawn(tensor.view(torch.uint16).numpy())


def test_padded_columns_and_rows_that_lie_apart_are_not_read() -> None:
    padded = np.full((12, 1024), np.nan, np.float32)
    padded[::2, :1000] = ROWS
    assert drawn(padded[::2]) == drawn(ROWS)
    assert drawn(torch.from_numpy(padded)[::2]) == drawn(ROWS)
    assert drawn(padded, rows=np.arange(0, 12, 2)) == drawn(ROWS)


def test_several_requests_can_read_one_row() -> None:
    assert drawn(ROWS[2:3], rows=[0] * 6) == drawn(np.repeat(ROWS[2:3], 6, axis=0))


def test_a_mask_has_the_bits_of_xgrammar_and_llguidance() -> None:
    # Both count bits from the lowest, and mark what is allowed.
    allowed = [0, 31, 32, 999]
    mask = np.zeros((6, 32), np.int32)
    for i in allowed:
        mask[:, i // 32] |= np.int32(np.uint32(1 << i % 32).view(np.int32))
    mask[:, -1] |= np.int32(-256)  # bits past the vocabulary mean nothing
    sampler = Sampler(1000)
    handles = [sampler.add(Settings()) for _ in ROWS]
    p = sampler.distribution(handles, ROWS, mask=mask)
    assert all(np.flatnonzero(row).tolist() == allowed for row in p)
    only = Sampler(1000)
    with_ids = only.distribution([only.add(Settings(allowed_ids=tuple(allowed))) for _ in ROWS], ROWS)
    np.testing.assert_array_equal(p, with_ids)
    assert drawn(ROWS, mask=torch.from_numpy(mask)) == drawn(ROWS, mask=mask)


def test_stop_tokens_that_the_grammar_allows_can_be_forbidden_for_a_while() -> None:
    sampler = Sampler(3)
    handle = sampler.add(Settings(stop_ids=(1,), min_new_tokens=2, temperature=0))
    row = np.array([[0, 9, 0]], np.float32)
    assert [sampler.step([handle], row).ids[0] for _ in range(3)] == [0, 0, 1]
    other = sampler.add(Settings(stop_ids=(1,), min_new_tokens=2))
    with pytest.raises(ValueError, match="row 0: mask, allowed_ids, bad_ids and min_new_tokens leave"):
        sampler.step([other], row, mask=np.array([[2]], np.int32))


def test_repetition_counts_the_prompt_and_presence_and_frequency_the_output() -> None:
    row = np.array([[1, 1, 1, -1]], np.float32)
    sampler = Sampler(4)

    def logits(settings: Settings, output: list[int]) -> np.ndarray:
        handle = sampler.add(settings, prompt=[0, 3, 0])
        sampler.append(handle, output)
        p = np.log(sampler.distribution([handle], row)[0])
        return p - p[2] + 1  # token 2 never occurs

    repeated = logits(Settings(repetition_penalty=2), [1])
    np.testing.assert_allclose(repeated, [0.5, 0.5, 1, -2], rtol=1e-5)
    np.testing.assert_allclose(logits(Settings(presence_penalty=0.5), [1, 1]), [1, 0.5, 1, -1], rtol=1e-5)
    np.testing.assert_allclose(logits(Settings(frequency_penalty=0.5), [1, 1]), [1, 0, 1, -1], atol=1e-5)


def test_bias_comes_before_penalties() -> None:
    sampler = Sampler(2)
    handle = sampler.add(Settings(bias={0: 3.0}, repetition_penalty=2.0), prompt=[0])
    p = sampler.distribution([handle], np.array([[-1, 0]], np.float32))[0]
    np.testing.assert_allclose(np.log(p[0] / p[1]), (-1 + 3) / 2, rtol=1e-5)


def test_raw_log_probabilities_are_of_the_model_and_processed_ones_of_the_request() -> None:
    settings = Settings(temperature=0.5, bias={7: -100.0}, top_k=4)
    sampler = Sampler(1000)
    handles = [sampler.add(settings, seed=i) for i in range(6)]
    raw = sampler.step(handles, ROWS, logps="raw", top_n=5)
    model = torch.from_numpy(ROWS).log_softmax(-1)
    np.testing.assert_allclose(raw.logps, model.numpy()[np.arange(6), raw.ids], atol=1e-5)
    np.testing.assert_allclose(raw.top_logps, model.topk(5).values, atol=1e-5)
    np.testing.assert_array_equal(raw.top_ids, model.topk(5).indices)
    none = sampler.step(handles, ROWS, logps="none")
    assert np.isnan(none.logps).all()
    assert (none.kept_logps <= 0).all()
    assert none.top_ids.shape == (6, 0)


def test_log_probabilities_in_bfloat16_are_those_of_the_same_numbers_in_float32() -> None:
    half = torch.from_numpy(ROWS).bfloat16()
    sampler = Sampler(1000)
    handles = [sampler.add(Settings(temperature=0.3), seed=i) for i in range(6)]
    a = sampler.step(handles, half, logps="raw").logps
    for handle in handles:
        sampler.rollback(handle, 1)
    np.testing.assert_array_equal(sampler.step(handles, half.float(), logps="raw").logps, a)


def test_forks_with_their_own_seeds_differ_and_with_one_seed_agree() -> None:
    sampler = Sampler(1000)
    handle = sampler.add(Settings(), prompt=[1, 2], seed=3)
    forks = sampler.fork(handle, range(3, 67))
    ids = sampler.step(forks, ROWS[:1], rows=np.zeros(64, np.int64)).ids
    assert len(set(ids.tolist())) > 20
    assert sampler.step([handle], ROWS[:1]).ids[0] == ids[0]


def test_a_draw_depends_on_seed_and_position_only() -> None:
    sampler = Sampler(1000)
    long = sampler.add(Settings(), prompt=range(5), seed=3)
    short = sampler.add(Settings(), prompt=range(2), seed=3)
    sampler.append(short, [9, 9, 9])
    assert len(set(sampler.step([long, short], ROWS[:1], rows=[0, 0]).ids.tolist())) == 1


def test_a_bad_row_is_named_or_marked_and_its_request_unchanged() -> None:
    rows = ROWS.copy()
    rows[4, 17] = np.nan
    with pytest.raises(ValueError, match="row 4: the logit of token 17 is NaN"):
        drawn(rows)
    ids = drawn(rows, on_bad="sentinel")
    assert ids[4] == -1
    assert ids[:4] + ids[5:] == [id for i, id in enumerate(drawn(ROWS)) if i != 4]


def test_greedy_drafts_are_accepted_as_far_as_they_are_right() -> None:
    sampler = Sampler(1000)
    handles = [sampler.add(Settings(temperature=0)) for _ in range(2)]
    best = ROWS.argmax(-1)
    verified = sampler.verify(handles, [best[:3], [int(best[4]) ^ 1]], ROWS)
    assert verified.num_accepted.tolist() == [3, 0]
    assert verified.next_ids.tolist() == [best[3], best[4]]
    assert verified.draws.ids.tolist() == [*best[:5], -1]
    assert sampler.output(handles[0]).tolist() == best[:4].tolist()


def test_drafts_with_probabilities_are_verified_against_them() -> None:
    sampler = Sampler(1000)
    draft, target = (sampler.add(Settings(top_k=20), seed=seed) for seed in (1, 2))
    q = sampler.distribution([draft], ROWS[:1])
    token = sampler.step([draft], ROWS[:1]).ids
    verified = sampler.verify([target], [token], ROWS[:2], draft_probs=q)
    assert verified.num_accepted.tolist() == [1]  # p = q is always accepted
    with pytest.raises(ValueError, match=r"row 0: draft token \d+ has the probability 0 in draft_probs"):
        sampler.verify([target], [np.argmin(q, -1)], ROWS[:2], draft_probs=q)


def test_the_rule_adapter_has_three_rules_that_can_be_switched_off() -> None:
    tokenizer = Tokenizer.train(["I should go. <a> We # !"] * 3, vocab_size=300)
    settings = rule_adapter(tokenizer.encode, [5])
    assert settings.stop_ids == (5,)
    assert settings.stop_ramp * 250 == pytest.approx(15)
    assert settings.presence_penalty == 1.5
    assert settings.bias[tokenizer.encode("<")[0]] == -4
    off = rule_adapter(tokenizer.encode, [5], stop_ramp=0, offsets={}, used_penalty=0)
    assert off == Settings(stop_ids=(5,))
    sampler = Sampler(8)
    handle = sampler.add(Settings(stop_ids=(5,), stop_ramp=2))
    flat = np.zeros((1, 8), np.float32)
    for length in range(3):
        p = sampler.distribution([handle], flat)[0]
        np.testing.assert_allclose(np.log(p[5] / p[0]), 2 * length, atol=1e-5)
        sampler.append(handle, [1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, h: s.step([h], ROWS[:1].astype(np.float64)), TypeError, "bfloat16 as uint16, got float64"),
        (lambda s, h: s.step([h], ROWS[0]), TypeError, "rows of float32"),
        (lambda s, h: s.step([h], [[0.0]]), TypeError, "a numpy array or a tensor, got list"),
        (lambda s, h: s.step([h], torch.empty(1, 1000, device="meta")), TypeError, r"on meta: call .cpu\(\)"),
        (lambda s, h: s.step([h], ROWS[:1, :999]), ValueError, "999 columns, but the vocabulary has 1000"),
        (lambda s, h: s.step([h], ROWS[:1, ::-1]), ValueError, "side by side"),
        (lambda s, h: s.step([h], ROWS[:2]), ValueError, "1 rows of logits are needed, got 2"),
        (lambda s, h: s.step([h], ROWS, rows=[6]), ValueError, "row 6 is not one of the 6 rows"),
        (lambda s, h: s.step([h + 1], ROWS[:1]), KeyError, "no request has the handle 1"),
        (lambda s, h: s.step([h, h], ROWS[:2]), KeyError, "request 0 is given twice"),
        (lambda s, h: s.step([0.5], ROWS[:1]), TypeError, "Cannot cast"),
        (lambda s, h: s.step([h], ROWS[:1], mask=np.zeros((1, 31), np.int32)), ValueError, "31 words of 32"),
        (lambda s, h: s.step([h], ROWS[:1], logps="all"), ValueError, "'raw' or 'none', got \"all\""),
        (lambda s, h: s.step([h], ROWS[:1], logps="none", top_n=1), ValueError, "top_n needs logps"),
        (lambda s, h: s.step([h], ROWS[:1], on_bad="skip"), ValueError, "'raise' or 'sentinel'"),
        (lambda s, h: s.add(Settings(), prompt=[1000]), ValueError, "the prompt has token 1000"),
        (lambda s, h: s.add(Settings(), prompt=[-1]), ValueError, "token -1, which is not an id"),
        (lambda s, h: s.add(Settings(bias={1000: 1.0})), ValueError, "bias has token 1000"),
        (lambda s, h: s.rollback(h, 1), ValueError, "has 0 tokens of output, cannot take back 1"),
        (lambda s, h: s.verify([h], [[1], [2]], ROWS[:2]), ValueError, "2 drafts do not fit 1 requests"),
        (lambda s, h: s.verify([h], [[1]], ROWS[:1]), ValueError, "2 rows of logits are needed, got 1"),
        (lambda s, h: Sampler(0), ValueError, "vocab_size must be from 1 to 8388608, got 0"),
    ],
)  # fmt: skip
def test_misuse_is_refused_with_the_value_and_the_fix(call, error, message: str) -> None:
    sampler = Sampler(1000)
    handle = sampler.add(Settings())
    with pytest.raises(error, match=message):
        call(sampler, handle)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or a positive number, got -1"),
        ({"top_k": -1}, r"top_k must be 0 \(all tokens\) or positive, got -1"),
        ({"top_p": float("nan")}, "top_p must be above 0 and at most 1, got NaN"),
        ({"min_p": 2}, "min_p must be from 0 to 1, got 2"),
        ({"typical_p": 0}, "typical_p must be above 0"),
        ({"top_n_sigma": -1}, "top_n_sigma must be 0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a positive number, got 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty must be finite"),
        ({"bias": {3: float("-inf")}}, "the bias of token 3 must be finite, got -inf; use bad_ids"),
        ({"allowed_ids": ()}, "allowed_ids must name a token"),
        ({"bad_ids": (-5,)}, "bad_ids has token -5, which is not an id"),
        ({"min_new_tokens": -1}, "min_new_tokens must not be negative, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


SCRIPT = """
import sys
import numpy as np
from tempa.sample import Sampler, Settings
rows = np.random.default_rng(0).normal(0, 2, (40, 20000)).astype(np.float32)
sampler = Sampler(20000)
handles = [sampler.add(Settings(top_p=0.9, top_k=i % 3 * 50), seed=i) for i in range(40)]
print(sampler.step(handles, rows).ids.tolist())
assert "torch" not in sys.modules
"""


def test_tokens_are_the_same_on_1_2_and_8_threads_and_need_no_torch() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2", "8")
    }  # fmt: skip
    assert len(printed) == 1
