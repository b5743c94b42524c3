"""How soon people are answered: `python experiments/benchmark.py watching [check] [dashboard] [--trials 2000]`.

check      `--check` of the demo on four logical nodes. Limit: 30 s.
dashboard  Ray's dashboard and `/metrics` after a run of trials that only wait, asked as its pages ask. Limit: 1 s.

Both start a cluster of their own on this machine, with a token of its own, and end it. Prints what was measured, and ends with
status 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.schedule import Sleep, Watch

from xlmr_sweep.cluster.tune.sweep import run_trials
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

ROOT = Path(__file__).parents[2]
NAMES = ("check", "dashboard")
LIMITS = {"check_s": 30.0, "slowest_s": 1.0}
TIMES = 5
"""Each page is asked so often; the longest answer counts."""
SLOTS, WAIT_S = 8, 0.3
OF_A_JOB = "filter_keys=job_id&filter_predicates=%3D&filter_values={job}"
PAGES = {
    "jobs": "/api/jobs/",
    "cluster": "/nodes?view=summary",
    "actors": "/logical/actors",
    "tasks of the job": f"/api/v0/tasks?detail=1&limit=10000&{OF_A_JOB}",
    "summary of the job": f"/api/v0/tasks/summarize?summary_by=lineage&{OF_A_JOB}",
}


@contextmanager
def cluster_of(nodes: int, cpus: int, *, dashboard: bool) -> Iterator[Any]:
    """Starts logical nodes."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus, "num_gpus": 0, "include_dashboard": dashboard}
    # 0 lets the system choose: other Rays of this machine may have the usual ports.
    ports = {"dashboard_agent_listen_port": 0, **({"dashboard_port": 0} if dashboard else {})}
    cluster = Cluster(initialize_head=True, head_node_args={**head, **ports})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=cpus, num_gpus=0, dashboard_agent_listen_port=0)
        yield cluster
    finally:
        cluster.shutdown()


def check(folder: Path) -> dict[str, Any]:
    """Returns how long `--check` takes on four nodes, the longer of two times."""
    command = [sys.executable, "experiments/run_grid.py", "--study", "demo", "--check", "--storage", str(folder / "runs")]
    with cluster_of(4, 1, dashboard=False) as cluster:
        seconds = []
        for _ in range(2):
            began = time.monotonic()
            done = subprocess.run([*command, "--address", cluster.address], cwd=ROOT, capture_output=True, text=True, check=False)
            seconds.append(time.monotonic() - began)
            assert "ok     nodes: 4, " in done.stdout, done.stdout + done.stderr
    return {"nodes": 4, "first_s": seconds[0], "check_s": max(seconds), "load": os.getloadavg()[0]}


def dashboard(folder: Path, number: int) -> dict[str, Any]:
    """Returns the longest answers of each page after so many trials."""
    import ray
    from benchmarks import schedule
    from ray import cloudpickle

    from xlmr_sweep.cluster.nodes import nodes

    cloudpickle.register_pickle_by_value(schedule)
    models = [{"name": "none", "hub": "none/none"}]
    seeds = list(range(-(-number // 105)))
    study = Study.model_validate({"name": "waiting", "models": models, "sizes": [2, 4, 8, 16, 32, 64, 128], "seeds": seeds})
    trials, storage = expand(study)[:number], Storage(folder / "runs")
    with cluster_of(1, SLOTS, dashboard=True) as cluster:
        told = ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            admission = Admission(trials, {"none": Width(1, 0)}, nodes(), CostModel(study, {}, has_gpus=False))
            watch = Watch(trials, admission, storage)
            run_trials(study, storage, admission, watch, work=Sleep({"none": WAIT_S}))
            assert not watch.failed, watch.failed[:3]
            found = page_answers(told.dashboard_url, ray.get_runtime_context().get_job_id(), ray.nodes()[0])
        finally:
            ray.shutdown()
    slowest = max(found.values())
    rate = len(trials) / watch.ends[-1]
    return {"trials": len(trials), "trials_a_second": rate, **found, "slowest_s": slowest, "load": os.getloadavg()[0]}


def answered_after(address: str) -> float:
    """Returns how many seconds a page takes."""
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    began = time.monotonic()
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        assert answer.read(), address
    return time.monotonic() - began


def page_answers(url: str, job: str, node: dict[str, Any], seconds: Callable[[str], float] = answered_after) -> dict[str, float]:
    """Returns the longest of several answers of each page, in seconds."""
    asked = {name: f"http://{url}{path.format(job=job)}" for name, path in PAGES.items()}
    asked["metrics"] = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return {f"{name}, s": max(seconds(address) for _ in range(TIMES)) for name, address in asked.items()}


def show(found: dict[str, Any]) -> bool:
    """Prints what was measured; returns whether every limit is kept."""
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}), flush=True)
    beyond = [f"{key} is above its limit of {limit:g}" for key, limit in LIMITS.items() if found.get(key, 0) > limit]
    for line in beyond:
        print(f"  {line}")
    return not beyond


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmark.py watching", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default both")
    parser.add_argument("--trials", type=int, default=2000, help="of dashboard")
    parser.add_argument("--inside", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        print(f"Error: no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if options.inside:
        with tempfile.TemporaryDirectory() as folder:
            kept = show(check(Path(folder)) if options.inside == "check" else dashboard(Path(folder), options.trials))
        return 0 if kept else 1
    # Ray reads its settings when it is imported.
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    again = [sys.executable, "experiments/benchmark.py", "watching", "--trials", str(options.trials), "--inside"]
    # In a folder of its own: what joins `--address auto` on this machine meanwhile does not find this cluster.
    with tempfile.TemporaryDirectory(prefix="w") as scratch:
        environment = {**os.environ, **settings, "RAY_TMPDIR": scratch}
        names = [name for name in NAMES if name in (options.names or NAMES)]
        return max(subprocess.run([*again, name], cwd=ROOT, env=environment, check=False).returncode for name in names)
