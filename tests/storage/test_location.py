"""What a path or URI of a storage means, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.location import locate, shown

NO_STORAGES = ["memory://", "s3://", "file:///", "://runs", "file:runs", "file://host/runs", "kind://x", "", "a\0b"]


@pytest.mark.parametrize("location", NO_STORAGES)
def test_what_is_no_storage_is_refused_and_never_taken_for_a_folder(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="--storage"):
        Storage(location).check_writable()
    assert not list(tmp_path.iterdir())


def test_a_storage_that_can_only_be_read_says_so() -> None:
    with pytest.raises(StudyError, match="--storage http://127.0.0.1:1/x: cannot be written on .*: it can only be read"):
        Storage("http://127.0.0.1:1/x").check_writable()


class Asked:
    """Stands for pyarrow: notes which URI it is asked for."""

    def __init__(self) -> None:
        self.uris: list[str] = []

    def from_uri(self, uri: str) -> tuple[None, str]:
        self.uris.append(uri)
        return None, "bucket/x"


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("gs://bucket/x", "gs://bucket/x?retry_limit_seconds=15"),
        ("gs://bucket/x?scheme=http", "gs://bucket/x?scheme=http&retry_limit_seconds=15"),
        ("gs://bucket/x?retry_limit_seconds=900", "gs://bucket/x?retry_limit_seconds=900"),
        ("s3://bucket/x", "s3://bucket/x"),
        # Otherwise pyarrow would refuse these, or ask another server: what follows `#` it leaves out.
        ("s3://bucket/mit Lücke#1?region=x&scheme=http", "s3://bucket/mit%20L%C3%BCcke%231?region=x&scheme=http"),
        ("s3://a%2Fb:c+d@bucket/a%20b/[x]", "s3://a%2Fb:c+d@bucket/a%20b/[x]"),
    ],
)
def test_pyarrow_is_asked_for_what_is_meant_and_google_gives_up_soon(
    uri: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = Asked()
    monkeypatch.setattr("pyarrow.fs.FileSystem", pyarrow)
    assert locate(uri).uri == uri
    assert pyarrow.uris == [asked]


ODD_NAMES = ["what?now", "a#b", "50%25", "a [b] c", "x:1:y", "a&b=c", "a://b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_character_of_a_path_stands_for_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(f"runs/{name}")
    storage.write("records/a.json", b"here")
    file = tmp_path / "runs" / name / "records" / "a.json"
    assert file.read_bytes() == b"here"
    assert storage.path("records/a.json") == str(file)
    assert Storage(storage.path("records")).read("a.json") == b"here"
    assert storage.names("records") == ["a.json"]


def test_a_question_mark_of_a_file_uri_is_part_of_its_path(tmp_path: Path) -> None:
    assert Storage(f"file://{tmp_path}/what?now").local == tmp_path / "what?now"
    assert Storage(f"file://{tmp_path}/50%25#x").local == tmp_path / "50%#x"


def test_a_name_below_an_object_store_comes_before_the_uris_options() -> None:
    storage = Storage("s3://bucket/runs?region=eu-west-1&endpoint_override=127.0.0.1:1")
    assert storage.path("records/a.json") == "s3://bucket/runs/records/a.json?region=eu-west-1&endpoint_override=127.0.0.1:1"


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="--storage .*file/below: cannot be written on"):
        Storage(tmp_path / "file" / "below").check_writable()
    with pytest.raises(StudyError, match="--storage nosuch://x: neither pyarrow nor fsspec"):
        Storage("nosuch://x")
    with pytest.raises(StudyError, match="--storage s3://bucket/50%: neither pyarrow nor fsspec can open it: Cannot parse URI"):
        Storage("s3://bucket/50%")


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        ("s3://KEY:marked@bucket/runs?region=x", "s3://***@bucket/runs?region=x"),
        ("s3://KEY:mar/ked@bucket/runs", "s3://***@bucket/runs"),
        ("az://c/runs?account_key=marked&x=1", "az://c/runs?account_key=***&x=1"),
        ("s3://b/runs?session_TOKEN=marked", "s3://b/runs?session_TOKEN=***"),
        ("abfss://container@account.dfs.core.windows.net/runs", "abfss://container@account.dfs.core.windows.net/runs"),
        ("runs/a:b@c?token=x", "runs/a:b@c?token=x"),
    ],
)
def test_keys_in_a_uri_are_never_shown(uri: str, seen: str) -> None:
    assert shown(uri) == seen


def test_a_storage_with_keys_in_its_uri_shows_none_and_keeps_them() -> None:
    uri = "s3://KEY:marked@bucket/runs?endpoint_override=127.0.0.1:1"
    storage = Storage(uri)
    assert storage.uri == uri
    for said in (str(storage), storage.path(""), storage.path("records/a.json")):
        assert "marked" not in said
    with pytest.raises(StudyError) as refused:
        Storage("s4://KEY:marked@bucket/runs?secret_key=marked")
    assert "marked" not in str(refused.value)


def test_bytes_of_a_path_that_are_no_text_here_are_shown_as_text() -> None:
    """As Python gives the arguments of a command: UTF-8 under `LC_ALL=C`, and bytes that are UTF-8 nowhere."""
    assert shown("runs/größe".encode().decode("ascii", "surrogateescape")) == "runs/größe"
    assert shown(b"runs/\xff".decode("utf-8", "surrogateescape")) == "runs/\ufffd"


def test_a_folder_that_is_gone_is_named_where_a_path_begins_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(StudyError, match=r"^--storage runs: the folder in which this command was started is gone; give an abs"):
        locate("runs")
    assert locate("/runs").root == "/runs"
    monkeypatch.chdir("/")
