"""The demo world: every word is in one group, a split draws only its own facts, and a seed makes the same world."""

from itertools import chain

import pytest

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.data.demo.world import NUM_GROUPS, SPLIT_CLASSES, Split, World, seeded_random


def test_groups_hold_every_word_once() -> None:
    world = World(4)
    for groups, words in (
        (world.people, lexicon.PEOPLE),
        (world.colours, lexicon.COLOURS),
        (world.things, lexicon.THINGS),
        (world.places, lexicon.PLACES),
        (world.times, lexicon.TIMES),
    ):
        assert len(groups) == NUM_GROUPS
        assert sorted(chain.from_iterable(groups)) == sorted(words)


@pytest.mark.parametrize("split", sorted(SPLIT_CLASSES))
def test_a_scene_holds_only_facts_of_its_split(split: Split) -> None:
    world, rng = World(4), seeded_random(4, "test")
    seen = set()
    for _ in range(200):
        scene = world.scene(rng, split)
        person, thing = world.people.index(scene.people), world.things.index(scene.things)
        colour, time = world.colours.index(scene.colours), world.times.index(scene.times)
        place = world.places.index(scene.places)
        event = world.events.index(scene.events)
        kinds = {(person + other + third) % NUM_GROUPS for other, third in ((thing, colour), (time, place), (time, event))}
        assert kinds <= set(SPLIT_CLASSES[split])
        seen.add((person, thing, colour))
    assert len(seen) > 1


@pytest.mark.parametrize("same", [True, False])
def test_two_nouns_show_one_sense_or_two(same: bool) -> None:
    world, rng = World(4), seeded_random(4, "test")
    for _ in range(50):
        senses = world.senses(rng, "train", same=same)
        assert senses.same == same
        assert senses.word in lexicon.AMBIGUOUS
        groups = sum(world.noun_group[noun] for noun in senses.nouns) % NUM_GROUPS
        assert groups in SPLIT_CLASSES["train"]


def test_a_seed_makes_the_same_world_and_another_one_another() -> None:
    assert World(4).people == World(4).people != World(5).people
    assert seeded_random(4, "a").random() == seeded_random(4, "a").random() != seeded_random(4, "b").random()
