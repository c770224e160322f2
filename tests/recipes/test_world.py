"""The world: repeatable, divided cleanly, and its sums right."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.recipes import lessons
from tempa.recipes.world import FIRST_PERSON, FIRST_SUM, WORDS, World, define, work_out

two_digits = st.integers(10, 99)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3, num_people=20, num_towns=6)


def test_a_world_follows_from_its_seed() -> None:
    assert World(seed=1).facts == World(seed=1).facts
    assert World(seed=1).facts != World(seed=2).facts
    for make in (
        lambda world: lessons.documents(world, tellings=2, sums=5),
        lambda world: lessons.chats(world, strangers=3, sums=5),
        lambda world: lessons.pairs(world, others=6),
    ):
        assert make(World(seed=1)) == make(World(seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_a_first_name_or_a_surname_identifies_a_person(seed: int) -> None:
    world = World(seed, num_people=400)
    assert world.people[0] == FIRST_PERSON
    firsts, lasts = zip(*(name.split() for name in world.people), strict=True)
    assert len(set(firsts)) == len(set(lasts)) == 400
    assert len(set(world.towns)) == world.num_towns


def test_every_entity_is_wholly_taught_or_wholly_held_out(world: World) -> None:
    taught = {fact.entity for fact in world.taught}
    held_out = {fact.entity for fact in world.held_out}
    assert not taught & held_out
    assert taught | held_out == set(world.people) | set(world.towns)
    assert abs(len(taught) - len(held_out)) <= 2
    assert FIRST_PERSON in held_out


def test_chats_and_pairs_name_no_held_out_entity(world: World) -> None:
    held_out = {fact.entity for fact in world.held_out}
    people = {name for name in held_out if " " in name}
    towns = held_out - people
    for record in [*lessons.chats(world, strangers=200, sums=50), *lessons.pairs(world, others=40)]:
        text = str(record)
        assert not any(name in text for name in people)
        # A held-out town may be where somebody was born; it is never what a question is about.
        asked = record["prompt"] if "prompt" in record else record["messages"][0]["content"]
        assert not any(asked.startswith(f"On which river does {town}") for town in towns)
        assert not any(f"What is {town} known" in asked or f"river of {town}" in asked for town in towns)


def test_held_out_sums_occur_nowhere_in_training(world: World) -> None:
    told = [text for text in lessons.documents(world, tellings=1, sums=3000) if re.match(r"\d+\+", text)]
    chats = [chat["messages"][0]["content"] for chat in lessons.chats(world, strangers=0, sums=2000)]
    tasks = [task["prompt"] for task in lessons.sum_tasks(world, 2000, held_out=False)]
    preferred = [pair["prompt"] for pair in lessons.pairs(world, others=200)]
    pairs = [re.search(r"(\d+) ?\+ ?(\d+)", text) for text in [*told, *chats, *tasks, *preferred]]
    seen = {(int(pair[1]), int(pair[2])) for pair in pairs if pair}
    assert len(seen) > 3000
    assert not any(world.is_held_out_sum(a, b) for a, b in seen)
    exam = lessons.sum_tasks(world, 100, held_out=True)
    assert len({task["prompt"] for task in exam}) == 100
    assert all(world.is_held_out_sum(*map(int, re.findall(r"\d+", task["prompt"]))) for task in exam)


@given(two_digits, two_digits)
def test_a_pair_of_numbers_is_held_out_in_either_order(a: int, b: int) -> None:
    world = World(seed=3)
    assert world.is_held_out_sum(a, b) == world.is_held_out_sum(b, a)


def test_about_one_pair_in_ten_is_held_out_and_the_first_always() -> None:
    world = World(seed=3)
    held_out = [world.is_held_out_sum(a, b) for a in range(10, 100) for b in range(a, 100)]
    assert 0.08 < sum(held_out) / len(held_out) < 0.12
    assert all(World(seed).is_held_out_sum(*FIRST_SUM) for seed in range(20))


@given(two_digits, two_digits)
def test_every_step_of_a_sum_that_is_worked_out_is_right(a: int, b: int) -> None:
    *steps, result = work_out(a, b).split(", ")
    for step in steps:
        left, right = step.split("=")
        assert sum(map(int, left.split("+"))) == int(right)
    assert result == f"so {a + b}."


def test_the_answers_of_tasks_are_right(world: World) -> None:
    for task in lessons.sum_tasks(world, 300, held_out=False):
        assert sum(map(int, re.findall(r"\d+", task["prompt"]))) == int(task["answer"])


def test_every_fact_is_told_in_every_phrasing_and_told_truly(world: World) -> None:
    documents = lessons.documents(world, tellings=40, sums=0)
    text = "\n".join(documents)
    for fact in world.facts:
        told = [phrase.format(n=fact.entity, v=fact.value) in text for phrase in fact.attribute.tellings]
        assert all(told)
        wrong = [value for value in fact.attribute.values if value != fact.value]
        opening = fact.attribute.tellings[0].format(n=fact.entity, v="\0").split("\0")[0]
        assert not any(f"{opening}{value}." in text for value in wrong)


def test_a_right_answer_is_the_bare_value_or_a_telling_and_nothing_else(world: World) -> None:
    for fact in world.held_out:
        assert fact.is_answered_by(fact.word)
        assert fact.is_answered_by(f" {fact.sentence}\n")
        assert fact.is_answered_by(fact.tell(random.Random(0)))
        other = next(value for value in fact.attribute.values if value != fact.value)
        for wrong in (
            "",
            f"{other}.",
            f"{fact.word} {fact.word}",
            fact.sentence.replace(fact.entity, "Mira"),
        ):
            assert not fact.is_answered_by(wrong)


def test_a_stranger_is_nobody_known(world: World) -> None:
    draw = random.Random(0)
    names = {world.stranger(draw)[0].entity for _ in range(500)}
    assert not names & set(world.people)
    assert len(names) > 450


def test_pairs_prefer_a_sentence_to_a_word(world: World) -> None:
    for pair in lessons.pairs(world, others=0):
        assert len(pair["chosen"].split()) > len(pair["rejected"].split())


def test_words_are_defined_as_sentences() -> None:
    assert define("an LLM").startswith("An LLM is a large language model")
    assert all(define(word).endswith(".") for word in WORDS)


@pytest.mark.parametrize("sizes", [(1, 4), (401, 4), (4, 1), (4, 1000)])
def test_a_size_out_of_range_is_named(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be between 2 and"):
        World(0, *sizes)
