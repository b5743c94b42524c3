"""Facts of the demo world and the clauses that tell them. A clause has no capital and no full stop of its own."""

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


@dataclass(frozen=True)
class Transfer:
    """A giver hands a thing of a colour to a taker."""

    giver: str
    taker: str
    colour: str
    thing: str
    verb: int


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


def sentence(clause: str) -> str:
    """Returns the clause with a capital and a full stop."""
    return clause[0].upper() + clause[1:] + "."


def sentences(clauses: Sequence[str]) -> str:
    """Returns the clauses as one text."""
    return " ".join(map(sentence, clauses))


def tell(rng: Random, fact: Fact) -> str:
    """Tells a fact in one of its wordings."""
    return rng.choice(HAS_CLAUSES if isinstance(fact, Has) else WAS_CLAUSES).format(fact)


def deny(fact: Fact) -> str:
    """Tells that a fact is not so."""
    return (HAS_NOT if isinstance(fact, Has) else WAS_NOT).format(fact)


def tell_sense(rng: Random, scene: Scene, senses: Senses, which: int) -> str:
    """Tells something of an ambiguous word beside one of its two nouns."""
    return rng.choice(SENSE_CLAUSES).format(person=rng.choice(scene.people), word=senses.word, noun=senses.nouns[which])


def given(transfer: Transfer) -> str:
    """Tells a handing-over from the giver's side."""
    verb = lexicon.TRANSFERS[transfer.verb][0]
    return f"{transfer.giver} {verb} the {transfer.colour} {transfer.thing} to {transfer.taker}"


def taken(transfer: Transfer) -> str:
    """Tells a handing-over from the taker's side."""
    verb = lexicon.TRANSFERS[transfer.verb][1]
    return f"{transfer.taker} {verb} the {transfer.colour} {transfer.thing} from {transfer.giver}"


def draw_has(rng: Random, scene: Scene, count: int) -> list[Has]:
    """Draws facts of different people and different things."""
    people, things = rng.sample(scene.people, count), rng.sample(scene.things, count)
    return [Has(p, rng.choice(scene.colours), t) for p, t in zip(people, things, strict=True)]


def draw_was(rng: Random, scene: Scene, count: int) -> list[Was]:
    """Draws facts of different people."""
    people = rng.sample(scene.people, count)
    return [Was(p, rng.choice(scene.places), rng.choice(scene.times)) for p in people]


def draw_facts(rng: Random, scene: Scene, count: int) -> list[Fact]:
    """Draws facts of one kind or the other, with different people."""
    return [*(draw_has if rng.random() < 0.6 else draw_was)(rng, scene, count)]


def draw_transfer(rng: Random, scene: Scene) -> Transfer:
    """Draws a handing-over between two people."""
    giver, taker = rng.sample(scene.people, 2)
    return Transfer(giver, taker, rng.choice(scene.colours), rng.choice(scene.things), rng.randrange(len(lexicon.TRANSFERS)))


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
    """Returns the words that each slot of a fact could hold in a scene."""
    if isinstance(fact, Has):
        return {"person": scene.people, "colour": scene.colours, "thing": scene.things}
    return {"person": scene.people, "place": scene.places, "time": scene.times}
