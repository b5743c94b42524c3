"""Plain text for masked language modelling: short documents that tell their facts more than once.

A masked word occurs elsewhere in its document or follows from the world's regularities. So the models learn to match and to copy,
and not only word frequencies. Every document keeps the rule of `world.py` for its split.
"""

from __future__ import annotations

from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    deny,
    draw_attempt,
    draw_facts,
    draw_has,
    draw_looks,
    sentences,
    tell,
    tell_look,
    tell_sense,
)
from xlmr_sweep.data.demo.world import Scene, World, seeded_random

NUM_TEXTS = 30_000


def pretraining_texts(seed: int, count: int = NUM_TEXTS) -> list[str]:
    """Returns the plain text of one world, one document per item.

    Args:
        seed: the generator seed.
        count: number of documents. A smaller number gives the first of these documents.
    """
    world, rng = World(seed), seeded_random(seed, "texts")
    return [rng.choice(KINDS)(rng, world, world.scene(rng, "text")) for _ in range(count)]


def _facts(rng: Random, world: World, scene: Scene) -> str:
    facts = draw_facts(rng, scene, 2)
    again = rng.sample(facts, 1)
    return sentences([tell(rng, fact) for fact in (*facts, *again)])


def _attempt(rng: Random, world: World, scene: Scene) -> str:
    attempt = draw_attempt(rng, scene, rng.random() < 0.5, negated=0.15)
    outcome = f"so {tell(rng, attempt.aim)}" if attempt.success else deny(attempt.aim)
    return sentences([attempt.clause, outcome])


def _absurd(rng: Random, world: World, scene: Scene) -> str:
    clauses = []
    for person in rng.sample(scene.people, 2):
        absurd = rng.choice(scene.absurd)
        clauses += [f"nobody believes that {person} {absurd}", f"{person} never {absurd}"]
    return sentences(rng.sample(clauses, 3))


def _opinion(rng: Random, world: World, scene: Scene) -> str:
    (fact,) = draw_has(rng, scene, 1)
    speaker = rng.choice([person for person in scene.people if person != fact.person])
    kind = rng.randrange(3)
    verb = rng.choice((lexicon.FACTIVE, lexicon.HEDGED, lexicon.COUNTERFACTIVE)[kind])
    claim = f"{speaker} {verb} that {tell(rng, fact)}"
    outcome = (f"so {tell(rng, fact)}", f"maybe {tell(rng, fact)}", deny(fact))[kind]
    return sentences([claim, outcome])


def _events(rng: Random, world: World, scene: Scene) -> str:
    clauses = []
    for person in rng.sample(scene.people, 2):
        (cause, effect), time = rng.choice(scene.events), rng.choice(scene.times)
        if rng.random() < 0.5:
            clauses += [f"on {time} {person} {cause}", f"so {person} {effect}"]
        else:
            clauses.append(f"on {time} {person} {effect} because {person} {cause}")
    return sentences(clauses)


def _senses(rng: Random, world: World, scene: Scene) -> str:
    senses = world.senses(rng, "text", same=rng.random() < 0.5)
    first, second = senses.topics
    verdict = f"both are about {first}" if senses.same else f"one is about {first} and one is about {second}"
    return sentences([*(tell_sense(rng, scene, senses, which) for which in (0, 1)), verdict])


def _topic(rng: Random, world: World, scene: Scene) -> str:
    topic = rng.choice(sorted(lexicon.TOPICS))
    nouns = rng.sample(lexicon.TOPICS[topic], 4)
    first = f"{rng.choice(scene.people)} saw the {nouns[0]} near the {nouns[1]}"
    return sentences([first, f"that is about {topic} like the {nouns[2]} and the {nouns[3]}"])


def _looks(rng: Random, world: World, scene: Scene) -> str:
    (look,) = draw_looks(rng, scene, 1)
    same = f"the {look.same} {look.owner.thing} is {look.told}"
    clauses = [f"the {look.owner.thing} is {look.same}", same, f"it is {look.same} and not {look.opposite}"]
    return sentences([tell_look(rng, look, look.told), *rng.sample(clauses, 2)])


def _look_judgement(rng: Random, world: World, scene: Scene) -> str:
    (look,) = draw_looks(rng, scene, 1)
    right = rng.random() < 0.5
    said = tell_look(rng, look, look.same if right else look.opposite)
    speaker = rng.choice(scene.people)
    outcome = "that is right" if right else "that is wrong"
    return sentences([tell_look(rng, look, look.told), f"{speaker} says that {said}", outcome])


KINDS = (_facts, _looks, _looks, _look_judgement, _attempt, _opinion, _events, _events, _absurd, _senses, _topic)
"""The kinds of documents. A kind that stands here twice is drawn twice as often."""
