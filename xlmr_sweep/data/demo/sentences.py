"""Facts of the demo world and the clauses that tell them. A clause has no capital letter and no full stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.world import Scene, Senses


@dataclass(frozen=True)
class Has:
    """A person has a thing of a colour."""

    person: str
    colour: str
    thing: str


@dataclass(frozen=True)
class Was:
    """A person was at a place at a time."""

    person: str
    place: str
    time: str


Fact = Has | Was

HAS_CLAUSES = (
    "{0.person} has the {0.colour} {0.thing}",
    "{0.person} owns the {0.colour} {0.thing}",
    "the {0.colour} {0.thing} belongs to {0.person}",
)
HAS_NOT = "{0.person} does not have the {0.colour} {0.thing}"
WAS_CLAUSES = (
    "{0.person} was at the {0.place} on {0.time}",
    "{0.person} spent {0.time} at the {0.place}",
    "on {0.time} {0.person} went to the {0.place}",
)
WAS_NOT = "{0.person} was not at the {0.place} on {0.time}"
SENSE_CLAUSES = (
    "{person} saw the {word} near the {noun}",
    "the {word} was next to the {noun}",
    "{person} talked about the {noun} and the {word}",
    "{person} drew a {word} and a {noun}",
)

VAGUE_CLAUSES = (
    "{person} saw the {word}",
    "{person} talked about the {word}",
    "{person} drew a {word}",
)
"""Clauses that do not tell the sense of a word."""

LOOK_CLAUSES = (
    "the {0.colour} {0.thing} of {0.person} is {1}",
    "{0.person} has a {1} {0.colour} {0.thing}",
)


def sentence(clause: str) -> str:
    """Returns the clause with a capital letter and a full stop."""
    return clause[0].upper() + clause[1:] + "."


def sentences(clauses: Sequence[str]) -> str:
    """Returns the clauses as one text."""
    return " ".join(map(sentence, clauses))


def tell(rng: Random, fact: Fact) -> str:
    """Returns a clause that tells a fact, in one of its wordings."""
    return rng.choice(HAS_CLAUSES if isinstance(fact, Has) else WAS_CLAUSES).format(fact)


def deny(fact: Fact) -> str:
    """Returns a clause that says that a fact is not true."""
    return (HAS_NOT if isinstance(fact, Has) else WAS_NOT).format(fact)


def tell_sense(rng: Random, scene: Scene, senses: Senses, which: int) -> str:
    """Returns a clause about an ambiguous word that also has one of its two nouns."""
    return rng.choice(SENSE_CLAUSES).format(person=rng.choice(scene.people), word=senses.word, noun=senses.nouns[which])


def tell_vaguely(rng: Random, scene: Scene, senses: Senses) -> str:
    """Returns a clause about an ambiguous word without a noun."""
    return rng.choice(VAGUE_CLAUSES).format(person=rng.choice(scene.people), word=senses.word)


def draw_has(rng: Random, scene: Scene, count: int) -> list[Has]:
    """Draws facts of different people and different things."""
    people, things = rng.sample(scene.people, count), rng.sample(scene.things, count)
    return [Has(p, rng.choice(scene.colours), t) for p, t in zip(people, things, strict=True)]


def draw_was(rng: Random, scene: Scene, count: int) -> list[Was]:
    """Draws facts of different people."""
    people = rng.sample(scene.people, count)
    return [Was(p, rng.choice(scene.places), rng.choice(scene.times)) for p in people]


def draw_facts(rng: Random, scene: Scene, count: int) -> list[Fact]:
    """Draws facts of one of the two kinds, with different people."""
    return [*(draw_has if rng.random() < 0.6 else draw_was)(rng, scene, count)]


def alter(rng: Random, scene: Scene, facts: Sequence[Fact], fact: Fact, far: float) -> Fact:
    """Returns a fact that `facts` do not tell.

    Args:
        rng: source of chance.
        scene: words to draw from.
        facts: what is told, `fact` among them, all of one kind.
        fact: the fact to alter.
        far: probability that every word is new where the scene has one left; else one word changes, and may be told of
            another fact.
    """
    choices = slots(scene, fact)
    if rng.random() < far:
        return _from_words(fact, {slot: rng.choice(_untold(facts, slot, words)) for slot, words in choices.items()})
    options = [_from_words(fact, {slot: word}) for slot, words in choices.items() for word in words]
    return rng.choice([option for option in options if option not in facts])


def _untold(facts: Sequence[Fact], slot: str, words: list[str]) -> list[str]:
    told = {getattr(fact, slot) for fact in facts}
    return [word for word in words if word not in told] or words


def _from_words(fact: Fact, words: dict[str, str]) -> Fact:
    if isinstance(fact, Has):
        return replace(fact, **words)
    return replace(fact, **words)


def slots(scene: Scene, fact: Fact) -> dict[str, list[str]]:
    """Returns the words of a scene that fit each slot of a fact."""
    if isinstance(fact, Has):
        return {"person": scene.people, "colour": scene.colours, "thing": scene.things}
    return {"person": scene.people, "place": scene.places, "time": scene.times}


@dataclass(frozen=True)
class Look:
    """A person's thing of a colour, and words for how it is: the told word, one of the same meaning, one of the opposite."""

    owner: Has
    good: bool
    told: str
    same: str
    opposite: str

    @property
    def asked(self) -> str:
        """A word of the first meaning of the property."""
        return self.same if self.good else self.opposite


@dataclass(frozen=True)
class Attempt:
    """A person's attempt to take a thing, how it ended, and the clause that tells it."""

    aim: Has
    success: bool
    clause: str


def draw_attempt(rng: Random, scene: Scene, success: bool, negated: float) -> Attempt:
    """Draws an attempt; `negated` is the probability that it is told by denying its contrary."""
    (aim,) = draw_has(rng, scene, 1)
    deny_it = rng.random() < negated
    past, infinitive = rng.choice(lexicon.SUCCEEDED if success != deny_it else lexicon.FAILED)
    verb = f"did not {infinitive}" if deny_it else past
    return Attempt(aim, success, f"{aim.person} {verb} to take the {aim.colour} {aim.thing}")


def draw_looks(rng: Random, scene: Scene, count: int) -> list[Look]:
    """Draws things of different people with different properties."""
    looks = []
    for owner, poles in zip(draw_has(rng, scene, count), rng.sample(lexicon.PROPERTIES, count), strict=True):
        side = rng.randrange(2)
        told, same = rng.sample(poles[side], 2)
        looks.append(Look(owner, side == 0, told, same, rng.choice(poles[1 - side])))
    return looks


def tell_look(rng: Random, look: Look, word: str) -> str:
    """Returns a clause that says that the thing is as `word` says."""
    return rng.choice(LOOK_CLAUSES).format(look.owner, word)
