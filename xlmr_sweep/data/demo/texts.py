"""Plain text for masked language modelling: short documents that tell their facts more than once.

A masked word can be found elsewhere in its document or follows from the world's regularities, so that the models learn
to match and to copy rather than word frequencies alone. Every document keeps the rule of `world.py` for its split.
"""

from __future__ import annotations

from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    alter,
    deny,
    draw_facts,
    draw_has,
    draw_transfer,
    given,
    sentences,
    taken,
    tell,
    tell_sense,
)
from xlmr_sweep.data.demo.world import Scene, World, stream

NUM_TEXTS = 30_000


def pretraining_texts(seed: int) -> list[str]:
    """Returns the plain text of one world, one document an item."""
    world, rng = World(seed), stream(seed, "texts")
    kinds = (_facts, _facts, _judgement, _judgement, _transfer, _opinion, _events, _events, _senses, _topic)
    return [rng.choice(kinds)(rng, world, world.scene(rng, "text")) for _ in range(NUM_TEXTS)]


def _facts(rng: Random, world: World, scene: Scene) -> str:
    facts = draw_facts(rng, scene, 2)
    again = rng.sample(facts, 1)
    return sentences([tell(rng, fact) for fact in (*facts, *again)])


def _judgement(rng: Random, world: World, scene: Scene) -> str:
    facts = draw_facts(rng, scene, rng.choice((1, 2)))
    fact = rng.choice(facts)
    right = rng.random() < 0.5
    said = fact if right else alter(rng, scene, facts, fact, far=0.6)
    speaker = rng.choice(scene.people)
    told = [tell(rng, other) for other in facts]
    return sentences([*told, f"{speaker} says that {tell(rng, said)}", "that is right" if right else "that is wrong"])


def _transfer(rng: Random, world: World, scene: Scene) -> str:
    transfer = draw_transfer(rng, scene)
    thing = f"the {transfer.colour} {transfer.thing}"
    clauses = [given(transfer), taken(transfer)]
    rng.shuffle(clauses)
    clauses.append(f"now {transfer.taker} has {thing}")
    if rng.random() < 0.5:
        clauses.append(f"{transfer.giver} does not have {thing}")
    return sentences(clauses)


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
    senses = world.senses(rng, "text", same=True)
    return sentences([tell_sense(rng, scene, senses, which) for which in (0, 1)])


def _topic(rng: Random, world: World, scene: Scene) -> str:
    nouns = rng.sample(lexicon.TOPICS[rng.choice(sorted(lexicon.TOPICS))], 4)
    first, second = rng.sample(scene.people, 2)
    return sentences(
        [f"{first} saw the {nouns[0]} near the {nouns[1]}", f"{second} talked about the {nouns[2]} and the {nouns[3]}"]
    )
