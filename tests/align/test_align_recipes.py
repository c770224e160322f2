"""What holds for every recipe of alignment: its settings are read, few, and refuse bad places."""

import copy
import dataclasses
import json
import sys

import pytest

from tempa.align.dpo import DpoConfig, dpo
from tempa.align.grpo import GrpoConfig, grpo
from tempa.align.ppo import PpoConfig, ppo
from tempa.align.reward import RewardConfig, reward
from tempa.align.settings import hold_out, load_start
from tempa.align.sft import SftConfig, sft
from tempa.config import parse, to_toml
from tempa.model import ScalarHead, save_model

RECIPES = {
    "sft": (sft, SftConfig, {"epochs": 1}),
    "reward": (reward, RewardConfig, {"epochs": 1}),
    "dpo": (dpo, DpoConfig, {"epochs": 1}),
    "grpo": (grpo, GrpoConfig, {"samples": 2, "max_new_tokens": 2, "algorithm": "rloo", "kl_coef": 0.1}),
    "ppo": (ppo, PpoConfig, {"max_new_tokens": 2}),
}


@pytest.fixture
def places(model, tokenizer, tmp_path):
    """A model, a reward model and records that suit every recipe."""
    save_model(tmp_path / "base", model, tokenizer)
    save_model(tmp_path / "reward", ScalarHead(copy.deepcopy(model)), tokenizer)
    records = [
        {"prompt": f"say {i}", "instruction": f"say {i}", "output": "one", "answer": "1"}
        | {"chosen": "one", "rejected": "two"}
        for i in range(6)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {"model": tmp_path / "base", "data": tmp_path / "data.jsonl", "out": tmp_path / "run"}


def recipe_of(name, places, tmp_path, config_type=None):
    function, known_type, changes = RECIPES[name]
    if name == "ppo":
        changes = {**changes, "reward": tmp_path / "reward"}
    # Muon and the falling schedule read the settings that AdamW and the cosine do not.
    changes = {
        "optimizer": "muon",
        "schedule": "wsd",
        "warmup_steps": 1,
        "steps": 2,
        "batch_size": 2,
        **changes,
    }
    return function, (config_type or known_type)(**places, **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_trap_c2_every_setting_is_read(name, places, tmp_path):
    """By the recipe itself: checks, hashing and saving read all of them and do not count."""
    read = set()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watched(RECIPES[name][1]):
        def __getattribute__(self, key):
            frame = sys._getframe(1)
            bookkeeping = frame.f_code.co_name == "__post_init__" or "config.py" in frame.f_code.co_filename
            if not bookkeeping and "dataclasses" not in frame.f_code.co_filename:
                read.add(key)
            return super().__getattribute__(key)

    function, config = recipe_of(name, places, tmp_path, Watched)
    function(config)
    assert {field.name for field in dataclasses.fields(Watched)} - read == set()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_at_most_thirty_settings(name):
    assert len(dataclasses.fields(RECIPES[name][1])) <= 30


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_configuration_is_the_same_configuration(name, places, tmp_path):
    _, config = recipe_of(name, places, tmp_path)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert parse(type(config), [str(tmp_path / "config.toml")], prog="", description="") == config


def test_a_model_without_a_tokenizer_is_refused(model, tmp_path):
    save_model(tmp_path, model)
    with pytest.raises(ValueError, match="saved without a tokenizer"):
        load_start(tmp_path)


def test_a_reward_model_of_another_tokenizer_is_refused(model, places, tmp_path):
    from tempa.tokenizer import Tokenizer

    other = Tokenizer.train(["something else"], vocab_size=270)
    save_model(tmp_path / "reward", ScalarHead(model), other)
    function, config = recipe_of("ppo", places, tmp_path)
    with pytest.raises(ValueError, match="another tokenizer"):
        function(config)


def test_the_last_tenth_is_held_out(tmp_path):
    train, held = hold_out(list(range(50)), tmp_path)
    assert (train, held) == (list(range(45)), list(range(45, 50)))
    assert len(hold_out(list(range(10_000)), tmp_path)[1]) == 256
    assert hold_out([1, 2], tmp_path) == ([1], [2])
    with pytest.raises(ValueError, match="at least 2"):
        hold_out([1], tmp_path)
