"""Which facts belong to which split: the rule that keeps evaluation facts out of training.

The seed deals every list of words into three groups. A fact has three slots, such as (person, colour, thing). Its class is the
sum of its words' groups modulo three. Class 0 is for validation rows, class 1 for the training pools, class 2 for pre-training
text and instruction rows.

A document or row draws all its words from one scene: one group of people, and for each kind of fact two more groups, so that the
sum of the three gives a class of the split. Any three of its words that could be a fact are therefore a fact of its own split,
whether it is told or not. Every pair of words still occurs in every split. Only the whole fact is new in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from xlmr_sweep.data.demo import lexicon
from xlmr_sweep.study.demo import DEMO_VERSION

NUM_GROUPS = 3

Item = TypeVar("Item")

USUAL = 0.9
"""Share of pairs with the usual sense of the word, among pairs of nouns that show the same sense."""

Split = Literal["validation", "train", "text"]

SPLIT_CLASSES: dict[Split, tuple[int, ...]] = {"validation": (0,), "train": (1,), "text": (2,)}


def seeded_random(seed: int, purpose: str) -> Random:
    """Returns the random numbers of one purpose, the same in every process."""
    return Random(f"demo/{DEMO_VERSION}/{seed}/{purpose}")


@dataclass(frozen=True)
class Scene:
    """The words that one document or row may use."""

    people: list[str]
    colours: list[str]
    things: list[str]
    places: list[str]
    times: list[str]
    events: list[tuple[str, str]]
    absurd: list[str]


@dataclass(frozen=True)
class Senses:
    """An ambiguous word with two nouns. Each noun shows a sense of the word."""

    word: str
    nouns: tuple[str, str]
    topics: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether both nouns show the same sense."""
        return self.topics[0] == self.topics[1]


class World:
    """The groups of words of one generator seed, and draws that keep the rule of a split."""

    def __init__(self, seed: int) -> None:
        rng = seeded_random(seed, "world")
        self.people = _deal(rng, lexicon.PEOPLE)
        self.colours = _deal(rng, lexicon.COLOURS)
        self.things = _deal(rng, lexicon.THINGS)
        self.places = _deal(rng, lexicon.PLACES)
        self.times = _deal(rng, lexicon.TIMES)
        self.events = _deal_events(rng)
        self.absurd = _deal(rng, lexicon.ABSURD)
        self.noun_group = {
            noun: place % NUM_GROUPS
            for nouns in lexicon.TOPICS.values()
            for place, noun in enumerate(rng.sample(nouns, len(nouns)))
        }
        self._senses = self._all_senses()

    def scene(self, rng: Random, split: Split) -> Scene:
        """Draws the words of one document: facts (person, colour, thing), (person, place, time), (person, event, time)."""
        people, things, times = (rng.randrange(NUM_GROUPS) for _ in range(3))
        classes = SPLIT_CLASSES[split]
        events = (rng.choice(classes) - people - times) % NUM_GROUPS
        return Scene(
            people=self.people[people],
            colours=self.colours[(rng.choice(classes) - people - things) % NUM_GROUPS],
            things=self.things[things],
            places=self.places[(rng.choice(classes) - people - times) % NUM_GROUPS],
            times=self.times[times],
            events=self.events[events],
            absurd=self.absurd[events],
        )

    def senses(self, rng: Random, split: Split, *, same: bool) -> Senses:
        """Draws an ambiguous word and two nouns whose combination belongs to the split.

        A word's usual sense is the first of `lexicon.SENSES`. Two nouns of the same sense show it in a share `USUAL` of the
        draws: real words have a usual sense, and a small model can learn that before it learns to compare.
        """
        usual, other = lexicon.SENSES
        second = other if not same or rng.random() >= USUAL else usual
        first = second if same else usual
        drawn = rng.choice(self._senses[split, (first, second)])
        return drawn if rng.random() < 0.5 else Senses(drawn.word, drawn.nouns[::-1], drawn.topics[::-1])

    def _all_senses(self) -> dict[tuple[Split, tuple[str, str]], list[Senses]]:
        table: dict[tuple[Split, tuple[str, str]], list[Senses]] = {}
        nouns = [(noun, topic) for topic in lexicon.SENSES for noun in lexicon.TOPICS[topic]]
        for word in lexicon.AMBIGUOUS:
            for i, (first, topic_1) in enumerate(nouns):
                for second, topic_2 in nouns[i + 1 :]:
                    kind = (self.noun_group[first] + self.noun_group[second]) % NUM_GROUPS
                    split = next(s for s, classes in SPLIT_CLASSES.items() if kind in classes)
                    drawn = Senses(word, (first, second), (topic_1, topic_2))
                    table.setdefault((split, drawn.topics), []).append(drawn)
        return table


def _deal(rng: Random, items: tuple[Item, ...]) -> list[list[Item]]:
    shuffled = rng.sample(items, len(items))
    return [shuffled[group::NUM_GROUPS] for group in range(NUM_GROUPS)]


def _deal_events(rng: Random) -> list[list[tuple[str, str]]]:
    """Each group gets one cause and one effect of every regularity."""
    groups: list[list[tuple[str, str]]] = [[] for _ in range(NUM_GROUPS)]
    for causes, effects in lexicon.EVENTS.values():
        pairs = zip(rng.sample(causes, NUM_GROUPS), rng.sample(effects, NUM_GROUPS), strict=True)
        for group, pair in zip(groups, pairs, strict=True):
            group.append(pair)
    return groups
