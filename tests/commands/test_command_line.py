"""Lists on the command line: `a,b` and `8,16`."""

from __future__ import annotations

import pytest

from xlmr_sweep.commands.command_line import names, numbers
from xlmr_sweep.errors import StudyError


def test_lists_are_split_at_commas_and_an_option_that_is_left_out_means_all() -> None:
    assert names("--models", "a, b,") == ("a", "b")
    assert numbers("--sizes", "8,16") == (8, 16)
    assert names("--models", None) is numbers("--sizes", None) is None


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_a_list_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=f"--models: '{text}' names nothing; leave the option out to mean all"):
        names("--models", text)


@pytest.mark.parametrize("text", ["8,x", "1.5", "8 16"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=f"--sizes: '{text}' is not a list of whole numbers such as 8,16"):
        numbers("--sizes", text)
