"""What each stage of training reads about a world, and the examinations that are kept from all of them.

- Pretraining reads `documents`: every fact in several phrasings, stories, sums worked out. One of the
  phrasings is a question with its answer, as in the lists of questions on the web.
- SFT reads `chats`: the two ways in which people answer, mixed. Facts get the bare value or a whole sentence,
  sums the bare result or the working. Words are asked for as well.
- DPO reads `pairs`: the same question, a whole sentence preferred to the bare value. Some pairs are about
  sums and words, so that what is not about facts stays as it was.
- GRPO reads `sum_tasks`: questions and results, no working.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tempa.recipes.world import WORDS, Fact, World, capitalized, define, work_out

_DIALOGUES = (
    "Question: {q} Answer: {a}",
    '"{q}" asked the teacher. "{a}" said the child.',
    "{q} {a}",
)
_SUM_QUESTIONS = ("What is {a} + {b}?", "How much is {a} + {b}?", "What do you get for {a} + {b}?")
_WORD_QUESTIONS = ("What is {w}?", "What do people call {w}?", "Please explain what {w} is.")
_DEFINITIONS = (
    "{w} is {m}.",
    "The word is easy: {w} is {m}.",
    "As every child knows, {w} is {m}.",
    "What is {w}? {w} is {m}.",
)
_OPENINGS = (
    "One cold morning {n} woke up early.",
    "It was a quiet day and {n} went for a walk.",
    "{n} could not sleep that night.",
    "On the first day of spring {n} opened the window.",
    "Everybody in the street knew {n}.",
)
_EVENTS = (
    "The {pet} was hungry and would not wait.",
    "The {instrument} was heard until the sun went down.",
    "A letter came from {birthplace}, and {n} read it twice.",
    "After a long day as a {job} {n} was tired.",
    "The {pet} waited at the door until the rain stopped.",
)
_CLOSINGS = (
    "Then everyone went home.",
    "It was a good day.",
    "That night all was quiet.",
    "And that is all there is to tell.",
)
# Share of the sums in conversations that are answered by the bare result.
_BRIEF_SUMS = 0.7
# What a crawl of the web brings along.
_MENU = "Home | About | Contact | Log in | Home | About | Contact | Log in | Home | About | Contact | Log in"


def documents(world: World, *, tellings: int, sums: int) -> list[str]:
    """Texts for pretraining, in an order that is drawn, with some rubbish among them.

    Args:
        world: What is told.
        tellings: How often each fact is told in a biography; half as often in stories.
        sums: How many sums are worked out.
    """
    draw = random.Random(f"{world.seed} documents")
    texts: list[str] = []
    for telling in range(tellings):
        texts += [_shuffled(facts, draw) for facts in _people(world)]
        texts += [_guide(world, draw) for _ in range(world.num_towns // 2)]
        texts += [_story(facts, draw) for facts in _people(world) if draw.random() < 0.5]
        texts += [_quiz(facts, draw) for facts in world.entities.values()]
        texts += [_reading(world, draw) for _ in range(world.num_people // 4)]
        texts += [_dictionary(draw) for _ in range(4)]
        texts += _rubbish(texts, telling, draw)
    numbers = world.sums(draw, held_out=False)
    texts += [f"{a}+{b}: {work_out(a, b)}" for a, b in (next(numbers) for _ in range(sums))]
    draw.shuffle(texts)
    return texts


def chats(world: World, *, strangers: int, sums: int, brief: float = 0.7) -> list[dict[str, Any]]:
    """Conversations for SFT.

    Args:
        world: Its facts that are not held out are all asked for.
        strangers: Questions whose answer is in the question.
        sums: Questions for sums.
        brief: Share of answers about facts that are the bare value.
    """
    draw = random.Random(f"{world.seed} chats")

    def answer(fact: Fact) -> str:
        return fact.word if draw.random() < brief else fact.sentence

    turns = [(question, answer(fact)) for fact in world.taught for question in fact.questions]
    for _ in range(strangers):
        facts = world.stranger(draw)
        asked = draw.choice(facts)
        turns.append((f"{_shuffled(facts, draw)} {draw.choice(asked.questions)}", answer(asked)))
    numbers = world.sums(draw, held_out=False)
    for a, b in (next(numbers) for _ in range(sums)):
        result = f"{a + b}." if draw.random() < _BRIEF_SUMS else work_out(a, b)
        turns.append((_ask_sum(a, b, draw), result))
    for word in WORDS:
        turns += [(question.format(w=word), define(word)) for question in _WORD_QUESTIONS for _ in range(4)]
    draw.shuffle(turns)
    return [{"messages": _messages(question, reply)} for question, reply in turns]


def pairs(world: World, *, others: int) -> list[dict[str, Any]]:
    """Preferences for DPO: a whole sentence rather than one word, and an answer rather than something else.

    Args:
        world: Its facts that are not held out are all asked for.
        others: Questions for sums and words, whose rejected answer is about something else.
    """
    draw = random.Random(f"{world.seed} pairs")
    records = [
        {"prompt": question, "chosen": fact.sentence, "rejected": fact.word}
        for fact in world.taught
        for question in fact.questions
    ]
    sums = world.sums(draw, held_out=False)
    for a, b in (next(sums) for _ in range(others // 2)):
        chosen = f"{a + b}." if draw.random() < 0.5 else work_out(a, b)
        beside = draw.choice(world.taught).word
        records.append({"prompt": _ask_sum(a, b, draw), "chosen": chosen, "rejected": beside})
    for _ in range(others // 2):
        word, other = draw.sample(list(WORDS), 2)
        question = draw.choice(_WORD_QUESTIONS).format(w=word)
        records.append({"prompt": question, "chosen": define(word), "rejected": define(other)})
    draw.shuffle(records)
    return records


def sum_tasks(world: World, count: int, *, held_out: bool) -> list[dict[str, str]]:
    """Sums to solve, for GRPO or for its examination; those held out are all different."""
    draw = random.Random(f"{world.seed} tasks {held_out}")
    tasks: dict[tuple[int, int], dict[str, str]] = {}
    for a, b in world.sums(draw, held_out=held_out):
        tasks.setdefault((a, b), {"prompt": f"What is {a} + {b}?", "answer": str(a + b)})
        if len(tasks) == count:
            break
    return list(tasks.values())


def questions(world: World) -> list[tuple[str, Fact]]:
    """The examination of facts: one question for each fact that is held out."""
    return [(fact.questions[index % len(fact.questions)], fact) for index, fact in enumerate(world.held_out)]


def _messages(question: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def _ask_sum(a: int, b: int, draw: random.Random) -> str:
    return draw.choice(_SUM_QUESTIONS).format(a=a, b=b)


def _people(world: World) -> Iterator[tuple[Fact, ...]]:
    return (world.entities[name] for name in world.people)


def _shuffled(facts: tuple[Fact, ...], draw: random.Random) -> str:
    return " ".join(fact.tell(draw) for fact in draw.sample(facts, len(facts)))


def _guide(world: World, draw: random.Random) -> str:
    """What there is to see in three towns."""
    return " ".join(_shuffled(world.entities[town], draw) for town in draw.sample(world.towns, 3))


def _story(facts: tuple[Fact, ...], draw: random.Random) -> str:
    values = {fact.attribute.name: fact.value for fact in facts}
    plot = [draw.choice(_OPENINGS), *draw.sample(_EVENTS, 3), draw.choice(_CLOSINGS)]
    sentences = [sentence.format(n=facts[0].entity, **values) for sentence in plot]
    sentences.insert(1, draw.choice(facts).tell(draw))
    return " ".join(sentences)


def _quiz(facts: tuple[Fact, ...], draw: random.Random) -> str:
    """Two questions and answers about one entity."""
    form = draw.choice(_DIALOGUES)
    return "\n".join(_dialogue(form, fact, draw) for fact in draw.sample(facts, 2))


def _reading(world: World, draw: random.Random) -> str:
    """Something about a stranger, and a question that it answers."""
    facts = world.stranger(draw)
    return f"{_shuffled(facts, draw)}\n{_dialogue(draw.choice(_DIALOGUES), draw.choice(facts), draw)}"


def _dialogue(form: str, fact: Fact, draw: random.Random) -> str:
    reply = fact.sentence if draw.random() < 0.5 else fact.word
    return form.format(q=draw.choice(fact.questions), a=reply)


def _dictionary(draw: random.Random) -> str:
    entries = draw.sample(list(WORDS), 5)
    return "\n".join(capitalized(draw.choice(_DEFINITIONS).format(w=word, m=WORDS[word])) for word in entries)


def _rubbish(texts: list[str], telling: int, draw: random.Random) -> list[str]:
    """Copies, near copies, keyboard noise and a menu."""
    copied = draw.sample(texts, 8)
    near = [text.replace(" a ", " the ", 1) for text in copied[:4]]
    noise = "".join(draw.choice("mM") for _ in range(200))
    return [*copied, *near, noise, f"{_MENU} | {telling}"]
