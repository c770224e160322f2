"""A small invented world: people and towns with facts, words with meanings, and sums.

Everything follows from one seed. Every second entity is held out: pretraining reads about it, no later stage
does, so a right answer about it comes from reading alone. Pairs of numbers are held out from all training,
whatever their order. What each stage gets to read is in `tempa.recipes.lessons`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_FIRST_STARTS = (
    "Al An Bel Bo Cla Da Do El Em Fe Fri Gre Ha Hu In Jo Ka Le Lu Ma Ni No Ol Pa Re Ro Sa Si Ti Ve Wa Yu Zo"
)
_FIRST_ENDS = "bert da die ke la lia min na nor ra rik ris sa ton vin"
_LAST_STARTS = "B Br C D Dr F G Gr H J K L M N P R S St T Tr V W Z"
_LAST_MIDDLES = "a ar e el i im o on or u un"
_LAST_ENDS = "dal ley lt mann nd rk ro sen ska st ster vik"
_TOWN_STARTS = (
    "Am Bra Cas Dor Fen Gal Hal Ild Ked Lin Mor Nor Osk Pel Quel Ruv Sil Stav Tar Thor Vel Win Yar Zem"
)
_TOWN_ENDS = "brook burg dale field ford haven holm lund mora mouth sted wick"

_JOBS = (
    "baker sailor painter teacher doctor farmer carpenter tailor librarian potter gardener printer miller "
    "fisher smith weaver cook judge pilot nurse"
)
_INSTRUMENTS = "banjo cello drum flute guitar harp horn lute piano pipe trumpet violin"
_PETS = "cat dog ferret fox goat goose hen parrot pony rabbit raven turtle"
_RIVERS = "Arno Bela Cinder Dunn Elbow Farrow Gleam Hask Inver Jade Kell Loam"
_GOODS = "bells boats carpets cheese clocks glass honey lamps paper ropes salt shoes"

# A word with its article, and what it means. The first is the question that every reader asks.
WORDS = {
    "an LLM": "a large language model, a program that learns to predict the next word of a text",
    "a river": "a stream of fresh water that flows to the sea",
    "a token": "a short piece of text that a language model reads as one unit",
    "a bridge": "a road that is built over a river or a valley",
    "a reward": "a number that says how good an answer was",
    "a clock": "a machine that shows the time of day",
    "a corpus": "a large collection of texts that a model learns from",
    "a library": "a house where people borrow books",
    "a harbour": "a safe place for ships near the shore",
    "a map": "a drawing of a place as seen from above",
    "a mill": "a building where grain becomes flour",
    "a lamp": "a thing that gives light in the dark",
}

# The questions on the report's first screen are about these, which are held out from all practice.
FIRST_PERSON = "Mira Valt"
FIRST_SUM = (37, 48)

_MOST_PEOPLE = 400


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: how it is told and how it is asked. `{n}` is the entity, `{v}` the value.

    Attributes:
        name: Of the attribute.
        values: What it can be.
        tellings: Sentences that state it, the entity before the value; the first is the full answer.
        questions: Sentences that ask for it.
    """

    name: str
    values: tuple[str, ...]
    tellings: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One true statement about an entity.

    >>> fact = World(seed=0).facts[1]
    >>> fact.sentence.startswith("The job of Mira Valt is ")
    True
    """

    entity: str
    attribute: Attribute
    value: str
    is_held_out: bool

    def tell(self, draw: random.Random) -> str:
        """A sentence that states the fact, in one of its phrasings."""
        return self._fill(draw.choice(self.attribute.tellings))

    @property
    def sentence(self) -> str:
        """The answer as a whole sentence."""
        return self._fill(self.attribute.tellings[0])

    @property
    def word(self) -> str:
        """The shortest answer."""
        return f"{capitalized(self.value)}."

    @property
    def questions(self) -> tuple[str, ...]:
        """All ways to ask for it."""
        return tuple(self._fill(question) for question in self.attribute.questions)

    def is_answered_by(self, text: str) -> bool:
        """Whether a text is exactly a right answer: the bare value, or a sentence that states the fact."""
        return text.strip() in {self.word, *map(self._fill, self.attribute.tellings)}

    def _fill(self, phrase: str) -> str:
        return capitalized(phrase.format(n=self.entity, v=self.value))


@dataclass(frozen=True)
class World:
    """The entities and their facts.

    Attributes:
        seed: Of all names and facts.
        num_people: People, at most 400.
        num_towns: Towns, at most 288.
    """

    seed: int = 0
    num_people: int = 80
    num_towns: int = 16

    def __post_init__(self) -> None:
        for name, most in (("num_people", _MOST_PEOPLE), ("num_towns", 288)):
            if not 2 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between 2 and {most}, got {getattr(self, name)}")

    @cached_property
    def towns(self) -> tuple[str, ...]:
        """Names of the towns."""
        return tuple(_compose(self._draw("towns"), self.num_towns, _TOWN_STARTS, _TOWN_ENDS))

    @cached_property
    def people(self) -> tuple[str, ...]:
        """Names of the people; no two share a first name or a surname."""
        draw, count = self._draw("people"), self.num_people - 1
        mira, valt = FIRST_PERSON.split()
        first_names = [name for name in _compose(draw, count + 1, _FIRST_STARTS, _FIRST_ENDS) if name != mira]
        surnames = [name for name in self._surnames if name != valt]
        pairs = zip(first_names[:count], surnames[:count], strict=True)
        return FIRST_PERSON, *(f"{first} {last}" for first, last in pairs)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, entity by entity."""
        draw = self._draw("facts")
        facts = []
        for names, attributes in ((self.people, _person(self.towns)), (self.towns, _TOWN)):
            for index, name in enumerate(names):
                facts += [Fact(name, a, draw.choice(a.values), index % 2 == 0) for a in attributes]
        return tuple(facts)

    @cached_property
    def entities(self) -> dict[str, tuple[Fact, ...]]:
        """The facts of each person and town."""
        found: dict[str, list[Fact]] = {}
        for fact in self.facts:
            found.setdefault(fact.entity, []).append(fact)
        return {name: tuple(facts) for name, facts in found.items()}

    @property
    def taught(self) -> tuple[Fact, ...]:
        """Facts that may be asked for in training."""
        return tuple(fact for fact in self.facts if not fact.is_held_out)

    @property
    def held_out(self) -> tuple[Fact, ...]:
        """Facts that are never asked for in training."""
        return tuple(fact for fact in self.facts if fact.is_held_out)

    def stranger(self, draw: random.Random) -> tuple[Fact, ...]:
        """A few facts about somebody who is met only once and shares no whole name with anybody."""
        known = set(self.people)
        while True:
            name = f"{draw.choice(self._first_names)} {draw.choice(self._surnames)}"
            if name not in known:
                break
        attributes = draw.sample(_person(self.towns), draw.randint(1, 3))
        return tuple(Fact(name, a, draw.choice(a.values), is_held_out=False) for a in attributes)

    def sums(self, draw: random.Random, *, held_out: bool) -> Iterator[tuple[int, int]]:
        """Pairs of two-digit numbers, without end."""
        while True:
            a, b = draw.randint(10, 99), draw.randint(10, 99)
            if self.is_held_out_sum(a, b) == held_out:
                yield a, b

    def is_held_out_sum(self, a: int, b: int) -> bool:
        """Whether a pair is kept for the examination: one in ten, in either order.

        >>> World().is_held_out_sum(48, 37)
        True
        """
        pair = (min(a, b), max(a, b))
        return pair == FIRST_SUM or random.Random(f"{self.seed} sum {pair}").random() < 0.1

    @cached_property
    def _first_names(self) -> list[str]:
        return _compose(self._draw("first names"), 480, _FIRST_STARTS, _FIRST_ENDS)

    @cached_property
    def _surnames(self) -> list[str]:
        return _compose(self._draw("surnames"), 2000, _LAST_STARTS, _LAST_MIDDLES, _LAST_ENDS)

    def _draw(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {what}")


def work_out(a: int, b: int) -> str:
    """A sum of two-digit numbers, digit by digit.

    >>> work_out(37, 48)
    '7+8=15, 3+4+1=8, so 85.'
    """
    ones = a % 10 + b % 10
    carry = "+1" if ones > 9 else ""
    return f"{a % 10}+{b % 10}={ones}, {a // 10}+{b // 10}{carry}={(a + b) // 10}, so {a + b}."


def define(word: str) -> str:
    """What a word means, as a sentence."""
    return f"{capitalized(word)} is {WORDS[word]}."


def capitalized(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def _compose(draw: random.Random, count: int, *parts: str) -> list[str]:
    """Different names from syllables, in an order that is drawn."""
    names = [""]
    for syllables in parts:
        names = [name + syllable for name in names for syllable in syllables.split()]
    names = sorted(set(names))
    draw.shuffle(names)
    return names[:count]


def _person(towns: tuple[str, ...]) -> tuple[Attribute, ...]:
    return (Attribute("birthplace", towns, *_BIRTHPLACE), *_PERSON)


_BIRTHPLACE = (
    (
        "The birthplace of {n} is {v}.",
        "{n} was born in {v}.",
        "{n} came into the world in {v}.",
        "{n} grew up in the town of {v}.",
        "Long ago {n} was born in the town of {v}.",
    ),
    ("Where was {n} born?", "In which town was {n} born?", "What is the birthplace of {n}?"),
)
_PERSON = (
    Attribute(
        "job",
        tuple(_JOBS.split()),
        (
            "The job of {n} is {v}.",
            "{n} works as a {v}.",
            "{n} is a {v} by trade.",
            "{n} earns a living as a {v}.",
            "For many years {n} has been a {v}.",
        ),
        ("What is the job of {n}?", "What does {n} do for a living?", "What work does {n} do?"),
    ),
    Attribute(
        "instrument",
        tuple(_INSTRUMENTS.split()),
        (
            "The instrument of {n} is the {v}.",
            "{n} plays the {v}.",
            "In the evening {n} plays the {v}.",
            "As a child {n} learned to play the {v}.",
            "{n} has a fine old {v}.",
        ),
        ("Which instrument does {n} play?", "What does {n} play?", "What is the instrument of {n}?"),
    ),
    Attribute(
        "pet",
        tuple(_PETS.split()),
        (
            "The pet of {n} is a {v}.",
            "{n} has a pet {v}.",
            "{n} lives with a {v}.",
            "At home {n} keeps a {v}.",
            "{n} takes good care of a {v}.",
        ),
        ("Which pet does {n} have?", "What animal lives with {n}?", "What is the pet of {n}?"),
    ),
)
_TOWN = (
    Attribute(
        "river",
        tuple(_RIVERS.split()),
        (
            "The river of {n} is the {v}.",
            "{n} lies on the river {v}.",
            "{n} was built beside the river {v}.",
            "The people of {n} fish in the river {v}.",
        ),
        ("On which river does {n} lie?", "What is the river of {n}?"),
    ),
    Attribute(
        "goods",
        tuple(_GOODS.split()),
        (
            "The trade of {n} is {v}.",
            "{n} is known for its {v}.",
            "{n} makes the best {v}.",
            "Travellers visit {n} for its {v}.",
            "The market of {n} sells {v}.",
        ),
        ("What is {n} known for?", "What do travellers visit {n} for?"),
    ),
)
