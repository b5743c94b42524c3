"""Instruction rows of many families in xP3's form. Wordings differ from the five prompts of `xlmr_sweep.tasks`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    Fact,
    alter,
    draw_facts,
    draw_has,
    draw_transfer,
    draw_was,
    given,
    sentence,
    sentences,
    taken,
    tell,
    tell_sense,
)
from xlmr_sweep.data.demo.world import Scene, World, stream

NUM_ROWS = 24_000

Pair = tuple[str, str]


def instruction_rows(seed: int) -> list[dict[str, str]]:
    """Returns the rows of one world: `inputs`, `targets` (at most three tokens) and `family`."""
    world, rng = World(seed), stream(seed, "instructions")
    names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
    rows = []
    for _ in range(NUM_ROWS):
        family = rng.choice(names)
        inputs, targets = FAMILIES[family](rng, world, world.scene(rng, "text"))
        rows.append({"inputs": inputs, "targets": targets, "family": family})
    return rows


def _reading(rng: Random, world: World, scene: Scene) -> Pair:
    facts = draw_facts(rng, scene, rng.choice((1, 2)))
    fact = asked = rng.choice(facts)
    right = rng.random() < 0.5
    if not right:
        asked = alter(rng, scene, facts, fact, far=0.6)
    text = sentences([tell(rng, other) for other in facts])
    return f"Read this: {text} Is it right to say {tell(rng, asked)}?", "yes" if right else "no"


def _claim(rng: Random, world: World, scene: Scene) -> Pair:
    facts = draw_facts(rng, scene, rng.choice((1, 2)))
    fact = asked = rng.choice(facts)
    right = rng.random() < 0.5
    if not right:
        asked = alter(rng, scene, facts, fact, far=0.6)
    text = sentences([tell(rng, other) for other in facts])
    return f"Claim: {sentence(tell(rng, asked))} Evidence: {text} The claim is", "true" if right else "false"


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


def _owner_now(rng: Random, world: World, scene: Scene) -> Pair:
    transfer = draw_transfer(rng, scene)
    text = sentence(rng.choice((given, taken))(transfer))
    return f"{text} Who is the owner now?", transfer.taker


def _paraphrase(rng: Random, world: World, scene: Scene) -> Pair:
    (fact,) = facts = draw_facts(rng, scene, 1)
    same = rng.random() < 0.5
    other: Fact = fact if same else alter(rng, scene, facts, fact, far=0.6)
    texts = f"{sentence(tell(rng, fact))} {sentence(tell(rng, other))}"
    return f"Do both sentences tell the same story? {texts}", "yes" if same else "no"


def _opinion(rng: Random, world: World, scene: Scene) -> Pair:
    (fact,) = draw_has(rng, scene, 1)
    speaker = rng.choice([person for person in scene.people if person != fact.person])
    kind = rng.randrange(3)
    verb = rng.choice((lexicon.FACTIVE, lexicon.COUNTERFACTIVE, lexicon.HEDGED)[kind])
    return f"{speaker} {verb} that {tell(rng, fact)}. Can we be sure of it?", ("yes", "no", "maybe")[kind]


def _fitting(rng: Random, world: World, scene: Scene) -> Pair:
    right, wrong = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    fits = rng.random() < 0.5
    effect = right[1] if fits else wrong[1]
    text = f"on {time} {person} {right[0]}, so {person} {effect}"
    return f"{sentence(text)} Does the story make sense?", "yes" if fits else "no"


def _ending(rng: Random, world: World, scene: Scene) -> Pair:
    right, wrong = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    asks = rng.randrange(2)
    first = rng.random() < 0.5
    options = [f"{person} {event[asks]}" for event in ((right, wrong) if first else (wrong, right))]
    what = ("What was the reason?", "What came next?")[asks]
    return (
        f"{sentence(f'on {time} {person} {right[1 - asks]}')} {what} A: {sentence(options[0])} B: {sentence(options[1])}",
        "A" if first else "B",
    )


def _sense(rng: Random, world: World, scene: Scene) -> Pair:
    same = rng.random() < 0.5
    senses = world.senses(rng, "text", same=same)
    texts = " ".join(sentence(tell_sense(rng, scene, senses, which)) for which in (0, 1))
    return f"{texts} Is {senses.word} used in one sense here?", "yes" if same else "no"


def _topic(rng: Random, world: World, scene: Scene) -> Pair:
    senses = world.senses(rng, "text", same=True)
    return f"{sentence(tell_sense(rng, scene, senses, 0))} What is it about?", senses.topics[0]


Family = Callable[[Random, World, Scene], Pair]

FAMILIES: dict[str, Family] = {
    "claim": _claim,
    "colour": _colour,
    "ending": _ending,
    "fitting": _fitting,
    "opinion": _opinion,
    "owner_now": _owner_now,
    "paraphrase": _paraphrase,
    "reading": _reading,
    "sense": _sense,
    "topic": _topic,
    "where": _where,
    "who": _who,
}

WEIGHTS = {
    "claim": 2,
    "colour": 1,
    "ending": 2,
    "fitting": 2,
    "opinion": 1,
    "owner_now": 1,
    "paraphrase": 2,
    "reading": 2,
    "sense": 2,
    "topic": 1,
    "where": 1,
    "who": 1,
}
"""How often each family is drawn."""
