"""The study that a storage belongs to."""

from __future__ import annotations

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.study_file import open_study, write_study
from xlmr_sweep.study.spec import Study


def test_study_json_remembers_all_sizes_and_seeds(study: Study, storage: Storage) -> None:
    write_study(storage, study.extended([16], [5]))
    opened = open_study(storage, study)
    assert opened.sizes == (4, 8, 16)
    assert opened.seeds == (0, 1, 5)


def test_a_storage_belongs_to_one_study(study: Study, storage: Storage) -> None:
    write_study(storage, study)
    with pytest.raises(StudyError, match="belongs to study 'small', not 'other'"):
        open_study(storage, study.replaced(name="other"))
    for content, said in (
        (b"{", r"study\.json: not JSON"),
        (b"[]", r"study\.json: not a study: give a mapping of keys to values; restore it"),
        (b'{"nam": "small"}', r"study\.json: not a study: name: is not given; restore it"),
    ):
        storage.write("study.json", content)
        with pytest.raises(StudyError, match=said) as error:
            open_study(storage, study)
        assert "\n" not in str(error.value)
