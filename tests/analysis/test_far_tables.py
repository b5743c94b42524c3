"""Tables behind a URI: with options after a question mark, in parts, and without a key of the URI on any page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import fs
from typer.testing import CliRunner

from analysis.report import app
from analysis.schema import TableError
from analysis.tables import load

MODELS = ["1.1", "1.10"]


def frame(models: list[str]) -> pd.DataFrame:
    cells = [
        (model, paradigm, "cb", 8, seed, 0.5) for model in models for paradigm in ("baseline", "prompted") for seed in (0, 1)
    ]
    return pd.DataFrame(cells, columns=["model", "paradigm", "task", "train_size", "seed", "score"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An S3 server with a table as CSV, as parquet, in parts and in parts by model."""
    pytest.importorskip("moto.server", reason="needs the test extra: pip install -e '.[test]'")
    from s3_server import s3_server

    here = tmp_path_factory.mktemp("tables")
    frame(MODELS).to_csv(here / "t.CSV", index=False)
    frame(MODELS).to_parquet(here / "t.parquet", index=False)
    (here / "parts.parquet").mkdir()
    (here / "parts.parquet" / "_SUCCESS").touch()
    (here / "parts.parquet" / ".part-0.parquet.crc").touch()
    for name in MODELS:
        frame([name]).to_parquet(here / "parts.parquet" / f"{name}.parquet", index=False)
        (here / "models.parquet" / f"model={name}").mkdir(parents=True)
        frame([name]).drop(columns="model").to_parquet(here / "models.parquet" / f"model={name}" / "0.parquet", index=False)
    with s3_server() as running:
        own = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{running.own_port}", scheme="http", region="us-east-1")
        fs.copy_files(str(here), "bucket/tables", destination_filesystem=own)
        yield running


@pytest.mark.parametrize("name", ["t.CSV", "t.parquet", "parts.parquet", "parts.parquet/", "models.parquet"])
def test_a_table_in_a_bucket_is_read_by_a_uri_with_options(server: Any, name: str) -> None:
    uri = server.uri(f"tables/{name}").replace("s3://", "s3://testing:testing@")
    found = load(uri)
    assert set(found.rows["model"]) == set(MODELS)
    assert len(found.rows) == 8
    assert found.name == name.partition(".")[0]
    assert "testing:testing" not in found.source
    assert found.source.startswith(f"s3://***@bucket/tables/{name}?")


def test_no_page_of_a_report_shows_a_key_of_the_uri(server: Any, tmp_path: Path) -> None:
    uri = server.uri("tables/t.CSV").replace("s3://", "s3://testing:testing@")
    done = CliRunner().invoke(app, ["--results", uri, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    pages = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert pages
    assert [path for path in pages if b"testing:testing" in path.read_bytes()] == []
    assert "testing:testing" not in done.output


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.parquet"])
def test_a_table_that_is_not_there_is_one_line_without_a_key(server: Any, name: str) -> None:
    uri = server.uri(f"tables/{name}").replace("s3://", "s3://testing:testing@")
    with pytest.raises(TableError, match=r"s3://\*\*\*@bucket/tables/nothing\..*cannot be read") as error:
        load(uri)
    assert "testing:testing" not in str(error.value)
    assert "\n" not in str(error.value)
