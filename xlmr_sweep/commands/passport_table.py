"""What is shown of passports. In: passports of a study's models. Out: a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from xlmr_sweep.commands.memory_table import ROWS_ARE
from xlmr_sweep.commands.passport import Passport
from xlmr_sweep.study.spec import Study


def passport_table(study: Study, passports: Sequence[Passport]) -> Table:
    """Returns a table with one row a model."""
    where = "a GPU" if study.cluster.gpus > 0 else "a process"
    table = Table(title="Passports of the models")
    for column in ("model", "family"):
        table.add_column(column)
    for column in ("M parameters", "without vocabulary", "positions"):
        table.add_column(column, justify="right")
    for column in ("mask", "label words", "head", "fast path"):
        table.add_column(column)
    table.add_column(f"GB {where}", justify="right")
    for passport in passports:
        size, memory = passport.size, passport.memory
        about = "" if size.is_exact else "about "
        words = ", ".join(f"{word}: {token} {number}" for word, (token, number) in passport.label_words.items())
        table.add_row(
            passport.model,
            passport.family,
            *(f"{about}{number / 1e6:,.1f}" for number in (size.total, size.body)),
            str(passport.positions),
            escape(passport.mask),
            escape(words) or "none asked",
            passport.head,
            "yes" if passport.is_fast else "no",
            "not known" if memory is None else f"{ROWS_ARE[memory.rows_are]}{memory.bytes_declared / 1e9:.1f}",
        )
    return table
