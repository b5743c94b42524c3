"""Instruction rows of many families in xP3's form. Wordings differ from the five prompts of `xlmr_sweep.study.tasks`.

xP3 has relatives of some SuperGLUE tasks and not of others. So does this. The relatives of each evaluation task:

    boolq  `reading` asks yes or no of a passage (a near relative); `quality` asks for good or bad
    wic    `sense` asks yes or no (a near relative); `topic` names the topic of one sentence
    cb     `opinion` asks whether a report can be relied on (yes, no, maybe), without a hypothesis
    rte    held out: `success` asks how an attempt ended (well, badly); no family answers yes or no on entailment
    copa   held out in form: `ending` picks A or B, `fitting` judges one ending; none asks about a first choice

`colour`, `where` and `who` are extractive questions that no task asks.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    draw_attempt,
    draw_has,
    draw_looks,
    draw_was,
    sentence,
    sentences,
    tell,
    tell_look,
    tell_sense,
)
from xlmr_sweep.data.demo.world import Scene, World, seeded_random

NUM_ROWS = 24_000

Pair = tuple[str, str]


def instruction_rows(seed: int, count: int = NUM_ROWS) -> list[dict[str, str]]:
    """Returns the rows of one world: `inputs`, `targets` (at most three tokens) and `family`.

    Args:
        seed: the generator seed.
        count: number of rows. A smaller number gives the first of these rows.
    """
    world, rng = World(seed), seeded_random(seed, "instructions")
    names = [name for name, (_, weight) in FAMILIES.items() for _ in range(weight)]
    rows = []
    for _ in range(count):
        family = rng.choice(names)
        inputs, targets = FAMILIES[family][0](rng, world, world.scene(rng, "text"))
        rows.append({"inputs": inputs, "targets": targets, "family": family})
    return rows


def _reading(rng: Random, world: World, scene: Scene) -> Pair:
    looks = draw_looks(rng, scene, rng.choice((1, 2)))
    look = rng.choice(looks)
    text = sentences([tell_look(rng, other, other.told) for other in looks])
    asked = f"the {look.owner.thing} of {look.owner.person} is {look.asked}"
    return f"Read this: {text} Is it right to say {asked}?", "yes" if look.good else "no"


def _quality(rng: Random, world: World, scene: Scene) -> Pair:
    (look,) = draw_looks(rng, scene, 1)
    return f"{sentence(tell_look(rng, look, look.told))} How is the {look.owner.thing}?", "good" if look.good else "bad"


def _success(rng: Random, world: World, scene: Scene) -> Pair:
    attempt = draw_attempt(rng, scene, rng.random() < 0.5, negated=0.15)
    return f"{sentence(attempt.clause)} How did it end?", "well" if attempt.success else "badly"


def _who(rng: Random, world: World, scene: Scene) -> Pair:
    facts = draw_has(rng, scene, 2)
    fact = rng.choice(facts)
    text = sentences([tell(rng, other) for other in facts])
    return f"{text} Who has the {fact.colour} {fact.thing}?", fact.person


def _colour(rng: Random, world: World, scene: Scene) -> Pair:
    facts = draw_has(rng, scene, 2)
    fact = rng.choice(facts)
    text = sentences([tell(rng, other) for other in facts])
    return f"{text} What colour is the {fact.thing} of {fact.person}?", fact.colour


def _where(rng: Random, world: World, scene: Scene) -> Pair:
    facts = draw_was(rng, scene, 2)
    fact = rng.choice(facts)
    text = sentences([tell(rng, other) for other in facts])
    return f"{text} Where was {fact.person} on {fact.time}?", fact.place


def _opinion(rng: Random, world: World, scene: Scene) -> Pair:
    (fact,) = draw_has(rng, scene, 1)
    speaker = rng.choice([person for person in scene.people if person != fact.person])
    kind = rng.randrange(3)
    verb = rng.choice((lexicon.FACTIVE, lexicon.COUNTERFACTIVE, lexicon.HEDGED)[kind])
    return f"{speaker} {verb} that {tell(rng, fact)}. Can we be sure of it?", ("yes", "no", "maybe")[kind]


def _fitting(rng: Random, world: World, scene: Scene) -> Pair:
    (cause, effect), other = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    fits = rng.random() < 0.5
    wrong = rng.choice(scene.absurd) if rng.random() < 0.7 else other[1]
    text = sentence(f"on {time} {person} {cause}, so {person} {effect if fits else wrong}")
    return f"{text} Does the story make sense?", "yes" if fits else "no"


def _ending(rng: Random, world: World, scene: Scene) -> Pair:
    right, other = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    asks = rng.randrange(2)
    first = rng.random() < 0.5
    wrong = rng.choice(scene.absurd) if rng.random() < 0.7 else other[asks]
    options = [sentence(f"{person} {p}") for p in ((right[asks], wrong) if first else (wrong, right[asks]))]
    what = ("What was the reason?", "What came next?")[asks]
    told = sentence(f"on {time} {person} {right[1 - asks]}")
    return f"{told} {what} A: {options[0]} B: {options[1]}", "A" if first else "B"


def _sense(rng: Random, world: World, scene: Scene) -> Pair:
    same = rng.random() < 0.5
    senses = world.senses(rng, "text", same=same)
    one, two = (sentence(tell_sense(rng, scene, senses, which)) for which in (0, 1))
    return f"One: {one} Two: {two} Is {senses.word} used in one sense here?", "yes" if same else "no"


def _topic(rng: Random, world: World, scene: Scene) -> Pair:
    senses = world.senses(rng, "text", same=True)
    return f"{sentence(tell_sense(rng, scene, senses, 0))} What is it about?", senses.topics[0]


Family = Callable[[Random, World, Scene], Pair]

FAMILIES: dict[str, tuple[Family, int]] = {
    "colour": (_colour, 1),
    "ending": (_ending, 3),
    "fitting": (_fitting, 2),
    "opinion": (_opinion, 2),
    "quality": (_quality, 2),
    "reading": (_reading, 4),
    "sense": (_sense, 5),
    "success": (_success, 2),
    "topic": (_topic, 1),
    "where": (_where, 1),
    "who": (_who, 1),
}
"""The families, and the weight of each in the draw."""
