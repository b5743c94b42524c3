"""The Slurm script, run for real on this machine by stand-ins of sbatch, srun and scontrol: two nodes, USR1, a second turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_encoder, make_study
from patience import PATIENCE_S, wait_for
from typer.testing import CliRunner

from xlmr_sweep.commands.subcommands import app

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAMS = {
    # Starts one task a node, all on this machine, and ends with the highest of their statuses.
    "srun": """
        case "$*" in *--ntasks=2*) ;; *) echo "srun: $*" >&2; exit 64;; esac
        while [ "${1#--}" != "$1" ]; do shift; done
        tasks=()
        for task in 0 1; do SLURM_PROCID=$task SLURM_NODEID=$task "$@" & tasks+=($!); done
        trap 'kill "${tasks[@]}" 2> /dev/null' TERM
        highest=0
        for task in "${tasks[@]}"; do
          while kill -0 "$task" 2> /dev/null; do wait "$task"; status=$?; done
          [ "$status" -le "$highest" ] || highest=$status
        done
        exit "$highest"
    """,
    "scontrol": """
        case "$1" in
          show) printf '%s\\n' "$(hostname)" "$(hostname)" ;;
          requeue) echo "$2" >> "$SLURM_STANDIN/requeued" ;;
        esac
    """,
    # Takes a job and runs it, again whenever it was put back. The job's script has no id but this one.
    "sbatch": """
        cp "$1" "$SLURM_STANDIN/job.sh"
        echo "Submitted batch job $SLURM_JOB_ID"
        while :; do
          rm -f "$SLURM_STANDIN/requeued"
          bash "$SLURM_STANDIN/job.sh" &
          echo $! > "$SLURM_STANDIN/batch.pid"
          wait $!
          echo $? >> "$SLURM_STANDIN/statuses"
          [ -e "$SLURM_STANDIN/requeued" ] || exit 0
        done
    """,
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Returns an environment in which the stand-ins are found."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}")
        (programs / name).chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_STANDIN": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
    }


def test_a_study_that_is_told_to_end_goes_back_into_the_queue_and_ends_with_every_trial_once(
    tmp_path: Path, slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(
        tmp_path,
        make_encoder(tmp_path / "encoder"),
        paradigms=["prompted"],
        tasks=["cb"],
        sizes=[2],
        seeds=list(range(8)),
        finetune={"steps": 40, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64},
    )
    storage, script = tmp_path / "runs", tmp_path / "job"
    asked = ["slurm", "--shared", "--study", str(study), "--storage", str(storage), "--nodes", "2", "--cpus-per-node", "1"]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["launch", *asked, "--out", str(script)]).exit_code == 0
    records = storage / "records"

    def done() -> int:
        return len(list(records.glob("*.json"))) if records.exists() else 0

    with (tmp_path / "output").open("w") as output:
        batch = subprocess.Popen(
            ["sbatch", str(script)], env=slurm, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def said() -> str:
        return (tmp_path / "output").read_text()

    try:
        wait_for(lambda: done() >= 1 or batch.poll() is not None, said)
        first = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
        os.kill(int((tmp_path / "batch.pid").read_text()), signal.SIGUSR1)
        assert batch.wait(PATIENCE_S) == 0, said()
    finally:
        if batch.poll() is None:
            os.killpg(batch.pid, signal.SIGKILL)
    assert (tmp_path / "statuses").read_text().split() == ["130", "0"], said()
    assert "Ending soon: nothing more is started" in said()
    assert "8 of 8 trials have a record" in said()
    # Each trial ran to its end once, those before the signal as well.
    assert {name: (records / name).stat().st_mtime_ns for name in first} == first
    assert done() == 8
    assert {json.loads(path.read_text())["attempt"] for path in records.glob("*.json")} == {1}
    token = tmp_path / ".ray" / "auth_token"
    assert (token.stat().st_mode & 0o777, len(token.read_text().strip())) == (0o600, 64)
    assert token.read_text().strip() not in said()
    assert not Path(f"/tmp/x{slurm['SLURM_JOB_ID']}").exists()
