"""No fact of an evaluation row occurs in training. Run with `pytest tests/data/demo/test_held_out.py`.

The check reads texts alone: it looks for the words of a fact within one document, knowing nothing of the generator.
"""

import re
from collections.abc import Iterable
from itertools import combinations, product

import pytest

from xlmr_sweep.data.demo import instruction_rows, lexicon, pretraining_texts, task_rows
from xlmr_sweep.data.demo.examples import VAGUE
from xlmr_sweep.study.tasks import TASKS

EVENT_PHRASES = [*lexicon.ABSURD, *(phrase for sides in lexicon.EVENTS.values() for side in sides for phrase in side)]
NOUNS = {noun for nouns in lexicon.TOPICS.values() for noun in nouns}


def facts_of(text: str) -> set[tuple[str, ...]]:
    """Every combination of words in `text` that could make up a fact: sorted by slot, stated or not."""
    words = set(re.findall(r"\w+", text))
    people, colours, things, places, times = (
        sorted(words.intersection(kind))
        for kind in (lexicon.PEOPLE, lexicon.COLOURS, lexicon.THINGS, lexicon.PLACES, lexicon.TIMES)
    )
    events = [phrase for phrase in EVENT_PHRASES if phrase in text]
    found: set[tuple[str, ...]] = {*product(people, colours, things), *product(people, places, times)}
    found |= set(product(people, events, times))
    for word in sorted(words.intersection(lexicon.AMBIGUOUS)):
        found |= {(word, *pair) for pair in combinations(sorted(words & NOUNS), 2)}
    return found


def facts_of_all(texts: Iterable[str]) -> set[tuple[str, ...]]:
    return set().union(*map(facts_of, texts))


def row_text(row: dict[str, object]) -> str:
    return " ".join(str(value) for value in row.values())


@pytest.mark.parametrize("seed", [11, 23])
def test_no_fact_of_a_validation_row_occurs_in_any_training_document(seed: int) -> None:
    rows = {task: task_rows(task, seed) for task in TASKS}
    training = [*pretraining_texts(seed), *(f"{row['inputs']} {row['targets']}" for row in instruction_rows(seed))]
    training += [row_text(row) for splits in rows.values() for row in splits["train"]]
    known = facts_of_all(training)
    for task, splits in rows.items():
        held_out = [facts_of(row_text(row)) for row in splits["validation"]]
        bare = sum(not facts for facts in held_out) / len(held_out)
        if task == "wic":
            assert bare == pytest.approx(VAGUE, abs=0.08), "the rows that do not tell, and no other, decide by no fact"
        else:
            assert bare == 0, f"{task}: every row decides by at least one fact"
        assert not known.intersection(*[set().union(*held_out)]), task


def test_every_pair_of_a_held_out_fact_is_known_from_the_plain_text() -> None:
    known = {frozenset(pair) for fact in facts_of_all(pretraining_texts(0, 15_000)) for pair in combinations(fact, 2)}
    held_out = facts_of_all(row_text(row) for row in task_rows("boolq", 0)["validation"])
    pairs = {frozenset(pair) for fact in held_out for pair in combinations(fact, 2)}
    assert pairs <= known


def test_the_check_would_see_a_leak() -> None:
    leaked = "Kim says that Anna has the red ball. Tom was hungry on Monday."
    assert ("Anna", "red", "ball") in facts_of(leaked)
    assert ("Tom", "was hungry", "Monday") in facts_of(leaked)
    assert ("band", "song", "team") in facts_of("The band was next to the team. Tom drew a band and a song.")


def test_the_world_differs_between_seeds_and_its_words_do_not() -> None:
    held_out = [facts_of_all(row_text(row) for row in task_rows("boolq", seed)["validation"]) for seed in (0, 1)]
    assert 0.2 < len(held_out[0] & held_out[1]) / len(held_out[0]) < 0.5, "about one fact in three by chance"
