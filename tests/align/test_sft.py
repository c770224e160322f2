import dataclasses
import json

import pytest
import torch

from tempa.align.records import Chat, chat_from
from tempa.align.sft import SftConfig, SftSettings, SftStage, fit_sft, sft
from tempa.data.packed import Packed
from tempa.model import save_model
from tempa.train.run import RunDir

# Ragged on purpose: answers of 1 to 16 words.
CHATS = [chat_from(f"one {'two ' * (i % 3)}", "cat " * (i + 1)) for i in range(16)]
TURNS = Chat(
    (
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four five"},
    )
)


def stage_of(model, tokenizer, chats=CHATS, **settings):
    return SftStage(model, tokenizer, chats, [], SftSettings(**{"batch_size": len(chats), **settings}))


@pytest.mark.parametrize("rows", [4, 1])
def test_trap_l1_the_gradient_does_not_depend_on_the_layout(model, tokenizer, gradient, relative, rows):
    whole = stage_of(model, tokenizer, micro_tokens=10_000)
    pieces = stage_of(model, tokenizer, micro_tokens=10_000)
    pieces._cut = lambda all_rows, records: [
        micro for i in range(0, 16, rows) for micro in SftStage._cut(whole, all_rows, records[i : i + rows])
    ]
    assert (len(whole.micro_batches(0)[0]), len(pieces.micro_batches(0)[0])) == (1, 16 // rows)
    assert relative(gradient(model, pieces), gradient(model, whole)) < 1e-6


def test_trap_l1_the_mean_of_means_is_another_gradient(model, tokenizer, gradient, relative):
    """The mutant: each micro-batch divided by its own count."""
    right = gradient(model, stage_of(model, tokenizer))

    class MeanOfMeans(SftStage):
        def micro_batches(self, step):
            micros, _ = super().micro_batches(step)
            return micros, float(len(micros))

        def loss(self, model, micro):
            loss = super().loss(model, micro)
            return dataclasses.replace(loss, total=loss.total / micro.batch.weights.sum())

    mutant = MeanOfMeans(model, tokenizer, CHATS, [], SftSettings(batch_size=16, micro_tokens=1))
    assert relative(gradient(model, mutant), right) > 0.1


def test_the_denominator_counts_what_the_loss_is_on(model, tokenizer):
    """Trap L3."""
    micros, denominator = stage_of(model, tokenizer, micro_tokens=64).micro_batches(0)
    assert len(micros) > 1
    assert denominator == sum(float(micro.batch.weights.sum()) for micro in micros)


def test_one_pass_over_a_dialogue_is_the_sum_of_its_rounds(model, tokenizer):
    """Ch4 S6, (4.7): each round given all before it."""
    (micro,), _ = stage_of(model, tokenizer, [TURNS]).micro_batches(0)
    together, _ = model.loss(micro.batch)
    rounds = [Chat(TURNS.messages[:2]), TURNS]
    separate = []
    for i, chat in enumerate(rounds):
        stage = stage_of(model, tokenizer, [chat])
        (row,) = stage.rows[0]
        if i == 1:
            (first,) = stage_of(model, tokenizer, rounds[:1]).rows[0]
            row.mask[: len(first.mask)] = 0
        (micro,), _ = stage.micro_batches(0)
        separate.append(model.loss(micro.batch)[0])
    torch.testing.assert_close(together, sum(separate))


def test_only_assistant_turns_and_their_ends_are_trained(model, tokenizer):
    """Ch4 S5, traps L5 and L6."""
    (micro,), denominator = stage_of(model, tokenizer, [TURNS]).micro_batches(0)
    trained = micro.batch.targets[micro.batch.weights > 0]
    assert tokenizer.decode(trained.numpy()) == "two<|end|>four five<|end|>"
    assert denominator == len(trained)


def test_trap_l12_a_batch_without_trained_tokens_is_finite(model, tokenizer):
    (micro,), _ = stage_of(model, tokenizer, [TURNS]).micro_batches(0)
    empty = Packed(micro.batch.ids, micro.batch.targets, 0 * micro.batch.weights, micro.batch.cu_seqlens)
    total, count = model.loss(empty)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_conversations_that_do_not_fit_are_left_out(model, tokenizer, capsys):
    long = chat_from("one", "cat " * 500)
    assert len(stage_of(model, tokenizer, [*CHATS, long]).rows) == 16
    assert "records longer than 128 tokens left out: 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="none of 1 records fits into the 128 tokens"):
        stage_of(model, tokenizer, [long])


def test_training_learns_the_answers_and_to_stop(model, tokenizer, tmp_path):
    chats = [chat_from("one", "two"), chat_from("three", "four five")]
    settings = SftSettings(steps=60, lr=1e-2, batch_size=2, eval_every=0, warmup_steps=0)
    result = fit_sft(model, tokenizer, chats, chats, settings, RunDir.open(tmp_path, settings))
    losses = [row["eval"]["loss"] for row in result.run.rows() if "eval" in row]
    assert losses[-1] < 0.05 < 1 < losses[0]


def test_the_recipe_reads_files_and_counts_epochs(model, tokenizer, tmp_path):
    save_model(tmp_path / "base", model, tokenizer)
    rows = [{"instruction": f"say {i}", "output": "one"} for i in range(20)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = sft(
        SftConfig(
            model=tmp_path / "base",
            data=tmp_path / "chats.jsonl",
            out=tmp_path / "run",
            batch_size=6,
            epochs=2,
        )
    )
    assert result.steps == 6  # 18 conversations twice, 6 at a time
    assert (result.checkpoint / "tokenizer.json").exists()


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"micro_tokens": 0}, {"epochs": -1}])
def test_settings_out_of_range_name_the_field(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SftSettings(**setting)
