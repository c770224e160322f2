import dataclasses
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F

from tempa.align.dpo import DpoConfig, DpoSettings, DpoStage, dpo, fit_dpo, pair_logps
from tempa.align.records import Pair
from tempa.align.reward import pair_rows
from tempa.align.sequences import packed
from tempa.model import save_model
from tempa.train.run import RunDir

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


def pair(prompt, chosen="cat", rejected="dog"):
    return Pair(({"role": "user", "content": prompt},), chosen, rejected)


# Ragged on purpose.
PAIRS = [pair(f"{word} {i}", "cat " * (i % 5 + 1), "dog " * (i % 3 + 1)) for i in range(2) for word in WORDS]


def stage_of(model, tokenizer, pairs=PAIRS, **settings):
    return DpoStage(model, tokenizer, pairs, [], DpoSettings(**{"batch_size": len(pairs), **settings}))


@pytest.mark.parametrize("micro_tokens", [1, 64, 10_000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_loss_is_log_two(model, tokenizer, micro_tokens, precision):
    """Ch4 O4, in every layout and number format.

    The tolerance is a few units in the last place: the reference pass keeps no graph, so its normalisations
    run in other kernels than those of the training pass.
    """
    stage = stage_of(model, tokenizer, batch_size=5, micro_tokens=micro_tokens, precision=precision)
    log_two = F.softplus(torch.zeros(())).item()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for step in range(3):
            for micro in stage.micro_batches(step)[0]:
                assert stage.loss(model, micro).total.item() == pytest.approx(
                    log_two * len(micro.records), rel=1e-6
                )


def test_log_probabilities_are_sums_over_the_answer(model, tokenizer):
    """Ch4 O4: sums, not means, of response tokens alone."""
    rows = pair_rows(tokenizer, PAIRS[:2])
    expected = []
    for row in rows:
        for sequence in row:
            ids = torch.from_numpy(sequence.ids.astype("int64"))
            logps = model.logits(model.hidden(packed([sequence]))).log_softmax(-1)
            trained = range(int(sequence.mask.argmax()), len(ids))
            expected.append(sum(logps[t - 1, ids[t]] for t in trained))
    actual = pair_logps(model, packed([sequence for row in rows for sequence in row]))
    torch.testing.assert_close(actual.flatten(), torch.stack(expected))


def test_the_loss_is_its_formula_after_the_model_moved(model, tokenizer):
    stage = stage_of(model, tokenizer, beta=0.3, label_smoothing=0.1)
    (micro,), denominator = stage.micro_batches(0)
    before = pair_logps(model, micro.batch).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    logps = pair_logps(model, micro.batch)
    h = 0.3 * ((logps - before)[:, 0] - (logps - before)[:, 1])
    expected = (-0.9 * F.logsigmoid(h) - 0.1 * F.logsigmoid(-h)).sum()
    torch.testing.assert_close(stage.loss(model, micro).total, expected)
    assert denominator == 16


@pytest.mark.parametrize("rows", [4, 1])
def test_trap_l1_the_gradient_does_not_depend_on_the_layout(model, tokenizer, gradient, relative, rows):
    whole, pieces = stage_of(model, tokenizer), stage_of(model, tokenizer)
    pieces._cut = lambda all_rows, records: [
        micro for i in range(0, 16, rows) for micro in DpoStage._cut(whole, all_rows, records[i : i + rows])
    ]
    assert (len(whole.micro_batches(0)[0]), len(pieces.micro_batches(0)[0])) == (1, 16 // rows)
    assert relative(gradient(model, pieces), gradient(model, whole)) < 1e-6


def test_training_prefers_the_chosen_and_keeps_the_reference(model, tokenizer, tmp_path):
    pairs = [pair(word) for word in WORDS]
    settings = DpoSettings(steps=30, lr=1e-3, batch_size=6, eval_every=0, warmup_steps=0)
    result = fit_dpo(model, tokenizer, pairs[:6], pairs[6:], settings, RunDir.open(tmp_path, settings))
    evals = [row["eval"] for row in result.run.rows() if "eval" in row]
    assert evals[0]["loss"] == pytest.approx(math.log(2))
    assert evals[-1]["accuracy"] == 1
    assert evals[-1]["loss"] < 0.3
    assert result.metrics["reward_chosen"] > 0 > result.metrics["reward_rejected"]


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(new_model, tokenizer, tmp_path):
    """The reference is the model that the run began with, also for the second half."""
    settings = DpoSettings(steps=6, save_every=3, batch_size=3, eval_every=0)

    def weights(run):
        model = new_model()
        fit_dpo(model, tokenizer, PAIRS, [], settings, RunDir.open(run, settings))
        return torch.cat([p.flatten() for p in model.parameters()])

    whole = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    assert torch.equal(weights(tmp_path / "run"), whole)


def test_the_recipe_reads_files(model, tokenizer, tmp_path):
    save_model(tmp_path / "base", model, tokenizer)
    rows = [{"prompt": word, "chosen": "cat", "rejected": "dog"} for word in WORDS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {"model": tmp_path / "base", "data": tmp_path / "pairs.jsonl", "out": tmp_path / "run"}
    assert dpo(DpoConfig(**paths, epochs=1, batch_size=4)).steps == 2


def test_settings_out_of_range_name_the_field():
    for name, value in {"kind": "dpo", "beta": 0.0, "label_smoothing": 0.7}.items():
        with pytest.raises(ValueError, match=rf"{name}|preference loss"):
            dataclasses.replace(DpoSettings(), **{name: value})
