import json

import pytest
import torch

from tempa.align.records import Pair
from tempa.align.reward import (
    RewardConfig,
    RewardSettings,
    RewardStage,
    end_scores,
    fit_reward,
    pair_rows,
    reward,
    score,
)
from tempa.align.sequences import packed
from tempa.model import ScalarHead, load_scalar, save_model
from tempa.train.run import RunDir

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


def pair(prompt, chosen="the cat sat", rejected="the dog"):
    return Pair(({"role": "user", "content": prompt},), chosen, rejected)


@pytest.fixture
def head(model):
    head = ScalarHead(model)
    with torch.no_grad():
        head.scalar.weight.normal_(generator=torch.Generator().manual_seed(0))
    return head


def test_the_score_is_read_at_the_end_token(head, tokenizer):
    """Ch4 M1."""
    ((row, _),) = pair_rows(tokenizer, [pair("one")])
    batch = packed([row])
    assert tokenizer.decode([int(batch.ids[-1])]) == "<|end|>"
    torch.testing.assert_close(end_scores(head, batch), head(batch)[-1:])


def test_a_score_does_not_depend_on_the_batch(head, tokenizer):
    """Trap L11: sequences do not see each other."""
    rows = [row for both in pair_rows(tokenizer, [pair(word * 3) for word in WORDS]) for row in both]
    together = score(head, rows)
    torch.testing.assert_close(together, score(head, rows, micro_tokens=1), atol=1e-6, rtol=1e-5)
    alone = torch.cat([end_scores(head, packed([row])) for row in rows]).detach()
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_trap_l1_the_gradient_does_not_depend_on_the_layout(head, tokenizer, gradient, relative):
    pairs = [pair(word, "cat " * (i + 1), "dog") for i, word in enumerate(WORDS)]
    whole, pieces = (
        RewardStage(head, tokenizer, pairs, [], RewardSettings(batch_size=8, micro_tokens=micro_tokens))
        for micro_tokens in (10_000, 1)
    )
    assert len(pieces.micro_batches(0)[0]) == 8
    assert relative(gradient(head, pieces), gradient(head, whole)) < 1e-6


def test_training_ranks_held_out_answers(model, tokenizer, tmp_path):
    """A model that has learned "cat over dog" ranks it for prompts it has not seen."""
    pairs = [pair(word, f"{word} cat", f"{word} dog") for word in WORDS]
    settings = RewardSettings(steps=30, lr=3e-3, batch_size=6, eval_every=0, warmup_steps=0)
    head, run = ScalarHead(model), RunDir.open(tmp_path / "run", settings)
    result = fit_reward(head, tokenizer, pairs[:6], pairs[6:], settings, run)
    assert result.metrics["accuracy"] == 1
    assert result.metrics["margin"] > 1
    loaded, _ = load_scalar(result.checkpoint)
    rows = [row for both in pair_rows(tokenizer, pairs[6:]) for row in both]
    torch.testing.assert_close(score(loaded, rows), score(head, rows))


def test_the_recipe_reads_files(model, tokenizer, tmp_path):
    save_model(tmp_path / "base", model, tokenizer)
    rows = [{"prompt": word, "chosen": "cat", "rejected": "dog"} for word in WORDS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {"model": tmp_path / "base", "data": tmp_path / "pairs.jsonl", "out": tmp_path / "run"}
    assert reward(RewardConfig(**paths, steps=2)).steps == 2


def test_settings_out_of_range_name_the_field():
    with pytest.raises(ValueError, match="center_coef"):
        RewardSettings(center_coef=-1)
