"""Instruction rows from JSON lines and tables: read at once or one by one they are the same, and what is wrong has its line."""

from __future__ import annotations

import pyarrow as pa
import pytest

from xlmr_sweep.data.jsonl import MAX_SHOWN, parse_lines, parse_table


@pytest.mark.parametrize(
    ("line", "is_row"),
    [
        (b'{"inputs": "a", "targets": "b", "more": [1, {"x": null}]}', True),
        (b'{"targets": "b", "inputs": "\\ud83d\\ude00 \\u00e9"}', True),
        ('{"targets": "b", "inputs": "\u00e9"}'.encode(), True),
        (b'{"inputs": "a", "targets": "b", "targets": "c"}', False),
        (b'{"inputs": "a", "targets": "b", "more": 1, "more": 2}', True),
        (b'{"inputs": "a", "targets": null}', False),
        (b'{"inputs": 1, "targets": "b"}', False),
        (b'{"inputs": "a\xff", "targets": "b"}', False),
        (b'{"inputs": "\\ud800", "targets": "b"}', False),
        (b'{"inputs": "a", "targets": "b"} {"inputs": "a", "targets": "b"}', False),
        (b'{"inputs": "a"', False),
    ],
)
def test_lines_read_at_once_are_those_read_one_by_one(line: bytes, is_row: bool) -> None:
    good = b'{"inputs": "x", "targets": "y"}\n'
    found = parse_lines(good + line + b"\n" + good)
    assert found.num_lines == 3
    assert (found.num_rows, found.num_malformed) == (3, not is_row)
    # A blank line sends all lines the slow way.
    slow = parse_lines(good + line + b"\n" + good + b"\n")
    assert slow.table == found.table
    assert [number for number, _ in found.problems] == [] if is_row else [2]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[1]", "not a JSON object with inputs and targets"),
        (b'{"inputs": "a"}', "lacks the field 'targets'"),
        (b'{"inputs": "a", "targets": 1}', "field 'targets' is int, not text"),
        (b'{"inputs": "a", "targets": "b"', "not JSON (Expecting ',' delimiter at character 31)"),
    ],
)
def test_a_malformed_line_is_told_by_its_number_and_what_is_wrong(line: bytes, problem: str) -> None:
    found = parse_lines(b'{"inputs": "x", "targets": "y"}\n\n' + line + b"\n")
    assert (found.num_lines, found.num_rows, found.num_malformed) == (3, 2, 1)
    assert found.problems == [(3, problem)]
    assert found.table.to_pylist() == [{"inputs": "x", "targets": "y"}]


def test_of_many_malformed_lines_the_first_are_told_and_all_are_counted() -> None:
    found = parse_lines(b"[]\n" * 25)
    assert found.num_malformed == 25
    assert [number for number, _ in found.problems] == list(range(1, MAX_SHOWN + 1))


def test_no_lines_are_no_rows() -> None:
    assert (parse_lines(b"").num_lines, parse_lines(b"").num_rows) == (0, 0)


def test_a_table_of_another_source_keeps_its_rows_and_names_the_others() -> None:
    rows = [{"inputs": "a", "targets": "b", "more": 1}, {"inputs": None, "targets": "b", "more": 2}]
    whole, broken = (parse_table(pa.Table.from_pylist(rows[:number])) for number in (1, 2))
    assert whole.table.to_pylist() == broken.table.to_pylist() == [{"inputs": "a", "targets": "b"}]
    assert (whole.num_malformed, broken.num_malformed) == (0, 1)
    assert broken.problems == [(2, "field 'inputs' is NoneType, not text")]
    assert parse_table(pa.table({"inputs": ["a"]})).problems == [(1, "lacks the field 'targets'")]
