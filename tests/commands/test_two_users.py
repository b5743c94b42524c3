"""Two users of a group share one storage and one cache: each does over what the other did, and everything is open to both."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import make_encoder, make_study
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
GROUP, USERS = 54321, (12345, 12346)
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root may become two other users")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user may enter, with a folder of the group in it: new files there are the group's too."""
    folder = Path(tempfile.mkdtemp(prefix="x", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "shared").mkdir()
    os.chown(folder / "shared", 0, GROUP)
    (folder / "shared").chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


def write_study(home: Path) -> None:
    """A trial of each paradigm, whose weights are kept, and a job with checkpoints. The model's weights are a `.bin` file."""
    encoder = make_encoder(home / "encoder")
    torch.save(load_file(encoder / "model.safetensors"), encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    make_study(
        home,
        encoder,
        models=[{"name": "tiny", "folder": str(encoder), "instruct_ranks": 1}],
        tasks=["cb"],
        sizes=[4],
        seeds=[0],
        instruct={"max_steps": 3, "global_batch_size": 16, "max_length": 64, "precision": "fp32", "checkpoint_every": 1},
        finetune={"steps": 2, "batch_size": 4, "max_length": 64, "precision": "fp32", "save_weights": True},
    )


def closed_to_the_group(folder: Path) -> dict[str, str]:
    """Returns the paths that another user of the group may not read and write, with group and mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        info = path.stat()
        wanted = 0o2770 if path.is_dir() else 0o660
        if info.st_gid != GROUP or info.st_mode & wanted != wanted:
            found[str(path.relative_to(folder))] = f"{info.st_gid} {stat.filemode(info.st_mode)}"
    return found


def test_two_users_do_over_what_the_other_did(home: Path) -> None:
    write_study(home)
    first, second = map(str, USERS)
    command = [sys.executable, ROOT / "tests/support/two_users.py", home, str(GROUP), first, second]
    around = {**os.environ, "XDG_CACHE_HOME": str(home / "shared" / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert closed_to_the_group(home / "shared") == {}
    runs = home / "shared" / "runs"
    made = {path.name for path in runs.iterdir() if any(path.iterdir() if path.is_dir() else [path])}
    assert made == {
        *("data", "failures", "instruct", "learned", "logs", "predictions", "records", "report", "results.parquet"),
        *("study.json", "tmp", "tracking", "train", "weights"),
    }
    assert {path.name for path in (home / "shared" / "cache" / "xlmr_sweep").iterdir()} == {"converted", "hashes"}
    # Nothing was left to the first who came: both wrote what they found of the other.
    assert {path.stat().st_uid for path in runs.rglob("*")} == {*USERS}
