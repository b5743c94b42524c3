"""The five tasks of the demo world, with the fields of the SuperGLUE tasks of the same name.

Train pools are of the split "train", validation rows of the split "validation" (see `world.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    Fact,
    Has,
    Transfer,
    alter,
    deny,
    draw_facts,
    draw_has,
    draw_transfer,
    given,
    sentence,
    sentences,
    taken,
    tell,
    tell_sense,
)
from xlmr_sweep.data.demo.world import Scene, Split, World, stream

NUM_TRAIN = 400
NUM_VALIDATION = 200

Row = dict[str, object]


def task_rows(task: str, seed: int) -> dict[str, list[Row]]:
    """Returns the rows of one task, by split.

    Args:
        task: one of boolq, cb, copa, rte, wic.
        seed: the generator seed.

    Returns:
        "train" and "validation", each a list of rows with the task's fields, `idx` and the integer `label`.

    Raises:
        ValueError: for a task that the demo world does not have.
    """
    if task not in MAKERS:
        raise ValueError(f"the demo world has no task {task!r}; it has {', '.join(MAKERS)}")
    world = World(seed)
    return {
        "train": _rows(world, task, seed, "train", NUM_TRAIN),
        "validation": _rows(world, task, seed, "validation", NUM_VALIDATION),
    }


def _rows(world: World, task: str, seed: int, split: Split, count: int) -> list[Row]:
    rng = stream(seed, f"{task}/{split}")
    make, labels = MAKERS[task]
    seen: set[tuple[object, ...]] = set()
    rows: list[Row] = []
    while len(rows) < count:
        # Labels in turn give each class its exact share; the order is shuffled below.
        label = labels[len(rows) % len(labels)]
        row = make(rng, world, world.scene(rng, split), split, label)
        key = tuple(row.values())
        if key not in seen:
            seen.add(key)
            rows.append({**row, "label": label})
    rng.shuffle(rows)
    return [{**row, "idx": index} for index, row in enumerate(rows)]


def _boolq(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    facts = draw_facts(rng, scene, 2)
    fact = rng.choice(facts)
    clauses = [tell(rng, other) for other in facts]
    asked: Fact = fact
    if not label and rng.random() < 0.1:
        clauses[facts.index(fact)] = deny(fact)
    elif not label:
        asked = alter(rng, scene, facts, fact, far=0.5)
    return {"passage": sentences(clauses), "question": f"is it so that {tell(rng, asked)}"}


def _cb(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    (fact,) = draw_has(rng, scene, 1)
    speaker = rng.choice([person for person in scene.people if person != fact.person])
    asked: Fact = fact
    verb = rng.choice((lexicon.FACTIVE, lexicon.COUNTERFACTIVE, lexicon.HEDGED)[label])
    if label == 1 and rng.random() < 0.4:
        verb = rng.choice(lexicon.FACTIVE)
        asked = alter(rng, scene, [fact], fact, far=0.5)
    return {"premise": f"{speaker} {verb} that {tell(rng, fact)}.", "hypothesis": tell(rng, asked)}


def _copa(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    right, wrong = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    asks = rng.randrange(2)  # 0: for the cause, 1: for the effect
    choices = [sentence(f"{person} {event[asks]}") for event in (right, wrong)]
    return {
        "premise": sentence(f"on {time} {person} {right[1 - asks]}"),
        "choice1": choices[label],
        "choice2": choices[1 - label],
        "question": ("cause", "effect")[asks],
    }


def _rte(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    transfer = told = draw_transfer(rng, scene)
    premise, reverse = (given, taken) if rng.random() < 0.5 else (taken, given)
    if label:
        told = _other_transfer(rng, scene, transfer)
    owns = tell(rng, Has(told.taker, told.colour, told.thing))
    return {"premise": sentence(premise(transfer)), "hypothesis": owns if rng.random() < 0.5 else reverse(told)}


def _other_transfer(rng: Random, scene: Scene, transfer: Transfer) -> Transfer:
    swapped = replace(transfer, giver=transfer.taker, taker=transfer.giver)
    colour = rng.choice([word for word in scene.colours if word != transfer.colour])
    thing = rng.choice([word for word in scene.things if word != transfer.thing])
    giver, taker = rng.sample([person for person in scene.people if person not in (transfer.giver, transfer.taker)], 2)
    near = (swapped, replace(transfer, colour=colour), replace(transfer, thing=thing))
    far = Transfer(giver, taker, colour, thing, transfer.verb)
    return far if rng.random() < 0.5 else rng.choice(near)


def _wic(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    senses = world.senses(rng, split, same=bool(label))
    first, second = (sentence(tell_sense(rng, scene, senses, which)) for which in (0, 1))
    return {"word": senses.word, "sentence1": first, "sentence2": second}


Maker = Callable[[Random, World, Scene, Split, int], Row]

MAKERS: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "boolq": (_boolq, (0, 1)),
    "cb": (_cb, (0, 0, 1, 1, 2)),
    "copa": (_copa, (0, 1)),
    "rte": (_rte, (0, 1)),
    "wic": (_wic, (0, 1)),
}
