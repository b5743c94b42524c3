"""Files of instruction rows: the parts of a plain file are its lines, wherever it is cut."""

from __future__ import annotations

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_sweep.data.row_file import RowFile
from xlmr_sweep.data.row_files import FileSegment, count_rows, lines_before


@settings(max_examples=60)
@given(
    st.binary(max_size=400).map(lambda data: data.replace(b"\r", b"\n"))
    | st.lists(st.sampled_from([b"a", b" ", b"\n", b"\n\n", b"\t", b"xyz"]), max_size=200).map(b"".join),
    st.integers(1, 50),
)
def test_the_parts_of_a_plain_file_are_its_lines(data: bytes, part_bytes: int) -> None:
    with tempfile.NamedTemporaryFile() as kept:
        kept.write(data)
        kept.flush()
        file = RowFile("x", kept.name, len(data))
        parts = [FileSegment(file, 0, part_bytes, part) for part in range(max(1, -(-len(data) // part_bytes)))]
        found = [payload.data for part in parts for payload in part.payloads()]
        assert b"".join(found) == data
        assert all(part.endswith(b"\n") for part in found[:-1] if part and any(found[found.index(part) + 1 :]))
        assert lines_before(file, len(parts), part_bytes) == data.count(b"\n")
        # Blank lines are no rows, in files that are read as in those that are left out.
        assert count_rows(file) == sum(bool(line.strip()) for line in data.split(b"\n"))
