"""The five tasks of the demo world, with the fields of the SuperGLUE tasks of the same name.

Training pools come from the split "train", validation rows from the split "validation" (see `world.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.sentences import (
    Fact,
    alter,
    draw_attempt,
    draw_has,
    draw_looks,
    sentence,
    sentences,
    tell,
    tell_look,
    tell_sense,
    tell_vaguely,
)
from xlmr_sweep.data.demo.world import Scene, Split, World, seeded_random

NUM_TRAIN = 400
NUM_VALIDATION = 200

VAGUE = 0.25
"""Share of wic's rows whose second sentence does not tell the word's sense, so nobody can be sure of them. People agree on
about 80%
of the real rows (Pilehvar and Camacho-Collados 2019). The usual sense still helps: at most about 93% of the rows can be right."""

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
    rng = seeded_random(seed, f"{task}/{split}")
    make, labels = MAKERS[task]
    seen: set[tuple[object, ...]] = set()
    rows: list[Row] = []
    while len(rows) < count:
        # Labels take turns, so each class gets its exact share. The rows are shuffled below.
        label = labels[len(rows) % len(labels)]
        row = make(rng, world, world.scene(rng, split), split, label)
        key = tuple(row.values())
        if key not in seen:
            seen.add(key)
            rows.append({**row, "label": label})
    rng.shuffle(rows)
    return [{**row, "idx": index} for index, row in enumerate(rows)]


def _boolq(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    looks = draw_looks(rng, scene, 2)
    look = rng.choice(looks)
    while look.good != bool(label):
        looks = draw_looks(rng, scene, 2)
        look = rng.choice(looks)
    told = sentences([tell_look(rng, other, other.told) for other in looks])
    return {"passage": told, "question": f"is the {look.owner.thing} of {look.owner.person} {look.asked}"}


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
    right, other = rng.sample(scene.events, 2)
    person, time = rng.choice(scene.people), rng.choice(scene.times)
    asks = rng.randrange(2)  # 0: for the cause, 1: for the effect
    wrong = rng.choice(scene.absurd) if rng.random() < 0.7 else other[asks]
    choices = [sentence(f"{person} {predicate}") for predicate in (right[asks], wrong)]
    return {
        "premise": sentence(f"on {time} {person} {right[1 - asks]}"),
        "choice1": choices[label],
        "choice2": choices[1 - label],
        "question": ("cause", "effect")[asks],
    }


def _rte(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    another = bool(label) and rng.random() < 0.15
    attempt = draw_attempt(rng, scene, success=not label or another, negated=0.2)
    aim: Fact = alter(rng, scene, [attempt.aim], attempt.aim, far=0.5) if another else attempt.aim
    return {"premise": sentence(attempt.clause), "hypothesis": tell(rng, aim)}


def _wic(rng: Random, world: World, scene: Scene, split: Split, label: int) -> Row:
    senses = world.senses(rng, split, same=bool(label))
    first, second = (sentence(tell_sense(rng, scene, senses, which)) for which in (0, 1))
    # Independent of the label, in both splits.
    if rng.random() < VAGUE:
        second = sentence(tell_vaguely(rng, scene, senses))
    return {"word": senses.word, "sentence1": first, "sentence2": second}


Maker = Callable[[Random, World, Scene, Split, int], Row]

MAKERS: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "boolq": (_boolq, (0, 1)),
    "cb": (_cb, (0, 0, 1, 1, 2)),
    "copa": (_copa, (0, 1)),
    "rte": (_rte, (0, 1)),
    "wic": (_wic, (0, 1)),
}
