"""Breaks a run in every way, at random moments: python experiments/benchmark.py faults --rounds 20

A grid of real fine-tuning trials of a tiny encoder, of widths 1/4, 1 and 2 GPUs, on a cluster of two logical nodes. Each round
runs it anew and breaks one thing:

driver-killed   kill -9 of the driver; the same command again
driver-ended    SIGTERM to the driver; the same command again
worker-killed   kill -9 of a process that runs a trial
rank-killed     kill -9 of the second rank of a gang
node-killed     kill -9 of a whole node, its raylet included; another joins some seconds later
disk-full       the storage has no space left for some seconds (a real full disk where this user may mount one)
read-only       the storage is read-only for some seconds (likewise)
hang            a trial stops in the middle of its steps
out-of-memory   a trial at the small share raises torch's OutOfMemoryError

After each round: every trial of the plan has exactly one record, scores and predictions are those of an undisturbed run bit for
bit, no trial that had a record ran again, and no process, actor or placement group is left. Ends with status 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KINDS = (
    "driver-killed",
    "worker-killed",
    "rank-killed",
    "node-killed",
    "driver-ended",
    "disk-full",
    "hang",
    "out-of-memory",
    "read-only",
)
STALL_S = 8.0
INTERRUPTED = 130
OF_RAY = "_AutoscalingCoordinatorActor"
"""Ray Train starts this actor with a cluster's first job. It belongs to the cluster and stays after the job."""
FAILING_S = 4.0
"""How long a storage fails."""
NUM_CPUS, NUM_GPUS = 2, 2
"""CPUs and GPUs of each of the two nodes. A rank takes one CPU, so two ranks run on a node at a time."""


# -- What runs in the driver and in the trials' processes -------------------------------------------------------------


@dataclass(frozen=True)
class Breaking:
    """Fine-tuning that hangs or runs out of memory once, when a file of that name appears."""

    orders: Path

    def open(self, study: Any, storage: Any, rank_info: Any) -> Any:
        from xlmr_sweep.cluster.work import FineTuning

        return _BreakingRunner(FineTuning().open(study, storage, rank_info), self.orders)


class _BreakingRunner:
    def __init__(self, inner: Any, orders: Path) -> None:
        self._inner, self._orders = inner, orders
        self.prepare, self.resolved, self.close = inner.prepare, inner.resolved, inner.close

    def run(self, trial: Any, on_step: Callable[[int], None] | None = None) -> Any:
        def step(number: int) -> None:
            if on_step is not None:
                on_step(number)
            if self._takes("hang"):
                time.sleep(3600)
            if trial.model == "quarter" and self._share() < 0.5 and self._takes("out-of-memory"):
                import torch

                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return self._inner.run(trial, step)

    def _takes(self, order: str) -> bool:
        """Tells whether this process is the one that carries out an order: who removes its file."""
        try:
            (self._orders / order).unlink()
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _share() -> float:
        import ray

        return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))


def drive(study: str, storage: str, address: str, orders: str) -> None:
    """The product's own command with the work replaced."""
    from benchmarks import faults
    from ray import cloudpickle

    from xlmr_sweep.commands import entry
    from xlmr_sweep.commands.exit_status import exit_with
    from xlmr_sweep.commands.request import Request

    cloudpickle.register_pickle_by_value(faults)
    work = faults.Breaking(Path(orders))
    exit_with(lambda console: entry.run(Request(study, storage), address, console, work=work))


# -- The benchmark ----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmark.py faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first round; a long run can be made in parts")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--only", metavar="KIND", choices=KINDS, help="break only this")
    parser.add_argument("--inside", nargs=4, metavar=("STUDY", "STORAGE", "ADDRESS", "ORDERS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        drive(*options.inside)
    kinds = [options.only] if options.only else KINDS
    # A cluster of this command's own on this machine's loopback; a token would only have to be handed on.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    logging.getLogger("ray").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, _cluster() as cluster:
        return Rounds(Path(folder), cluster, options.seed).run(range(options.first, options.first + options.rounds), list(kinds))


@dataclass
class Result:
    """One round."""

    kind: str
    moment: str
    statuses: list[int]
    seconds: float
    retried: int
    problems: list[str] = field(default_factory=list)


class Rounds:
    """Runs rounds on one cluster and compares each with an undisturbed run."""

    def __init__(self, folder: Path, cluster: Any, seed: int) -> None:
        self._folder, self._cluster, self._seed = folder, cluster, seed
        self._study = write_study(folder)
        self._wanted: dict[str, Any] = {}
        self._kept: dict[str, int] = {}

    def run(self, rounds: range, kinds: list[str]) -> int:
        from rich.console import Console

        console = Console(width=140)
        began = time.monotonic()
        with self._storage("undisturbed", "none") as storage:
            driver = self._drive(storage)
            if driver.wait(300) != 0:
                console.print(self._log.read_text(), markup=False)
                return 1
            self._wanted = outcome(storage)
            console.print(f"undisturbed: {len(self._wanted)} trials in {time.monotonic() - began:.1f} s", highlight=False)
        results = []
        for number in rounds:
            result = self._round(number, kinds[(number - 1) % len(kinds)])
            results.append(result)
            state = "; ".join(result.problems) or "ok"
            console.print(
                f"{number:3} {result.kind:14} {result.moment:34} exit {result.statuses} {result.seconds:5.1f} s, "
                f"{result.retried} trials ran again: {state}",
                highlight=False,
            )
            if result.problems:
                console.print(self._log.read_text()[-3000:], markup=False, highlight=False)
        bad = sum(bool(result.problems) for result in results)
        console.print(
            f"{len(results) - bad} of {len(results)} rounds lost nothing; {time.monotonic() - began:.0f} s in all",
            highlight=False,
        )
        return 1 if bad else 0

    def _round(self, number: int, kind: str) -> Result:
        began = time.monotonic()
        self._rng = random.Random(f"{self._seed} {number}")
        with self._storage(f"round-{number}", kind) as storage:
            driver = self._drive(storage)
            result, self._kept = Result(kind, "", [], 0.0, 0), {}
            try:
                self._break(kind, driver, storage, result)
                result.statuses.append(driver.wait(150))
                for _ in range(2):
                    if result.statuses[-1] == 0:
                        break
                    driver = self._drive(storage)
                    result.statuses.append(driver.wait(150))
            except subprocess.TimeoutExpired:
                result.problems.append("did not end in 150 s")
                driver.kill()
            except _NothingToBreak:
                result.problems.append("ended before it could be broken")
            result.problems += self._problems(kind, storage, result)
            result.seconds = time.monotonic() - began
        return result

    def _break(self, kind: str, driver: subprocess.Popen[bytes], storage: Path, result: Result) -> None:
        """Waits for a random moment and breaks something there."""
        # While wide trials run if a gang is to be hit; while something still waits in any case.
        target = self._rng.randrange(0, 2) if kind == "rank-killed" else self._rng.randrange(0, len(self._wanted) - 2)
        pause = self._rng.uniform(0, 0.5)
        victims: Callable[[], list[int]] = {
            "worker-killed": lambda: processes_titled(self._cluster, r"ray::trial (?!.* rank 1 )"),
            "rank-killed": lambda: processes_titled(self._cluster, r"ray::trial .* rank 1 of 2"),
        }.get(kind, lambda: [driver.pid])
        deadline = time.monotonic() + 120
        while len(names(storage)) < target or not (storage / "logs").is_dir() or not victims():
            if driver.poll() is not None or time.monotonic() > deadline:
                raise _NothingToBreak
            time.sleep(0.02)
        time.sleep(pause)
        self._kept = stamps(storage)
        result.moment = f"after {len(self._kept)} records and {pause:.2f} s"
        if kind == "driver-killed":
            driver.kill()
        elif kind == "driver-ended":
            driver.terminate()
        elif kind in ("worker-killed", "rank-killed"):
            found = victims() or processes_titled(self._cluster, "ray::trial")
            if not found:
                raise _NothingToBreak
            os.kill(self._rng.choice(found), signal.SIGKILL)
        elif kind == "node-killed":
            # Another takes its place. Until then half of the cluster is gone.
            self._cluster.remove_node(self._cluster.worker_nodes.copy().pop(), allow_graceful=False)
            time.sleep(FAILING_S)
            add_node(self._cluster)
        elif kind in ("disk-full", "read-only"):
            with failing(storage, kind):
                time.sleep(FAILING_S)
        else:
            (self._orders / kind).touch()

    def _problems(self, kind: str, storage: Path, result: Result) -> list[str]:
        """Returns everything that is not as it has to be after a round."""
        found = outcome(storage)
        problems = []
        if result.statuses and result.statuses[-1] != 0:
            problems.append(f"exit {result.statuses[-1]}")
        if kind == "driver-ended" and result.statuses[:1] != [INTERRUPTED]:
            problems.append(f"exit {result.statuses[:1]} of the driver that was ended, not {INTERRUPTED}")
        if found.keys() != self._wanted.keys():
            problems.append(f"{len(found)} of {len(self._wanted)} trials have a record")
        problems += [f"{key}: other scores" for key, value in found.items() if value != self._wanted.get(key)]
        problems += [f"{name}: written again" for name, stamp in self._kept.items() if stamps(storage).get(name) != stamp]
        for path in (storage / "logs").glob("*.log"):
            text = path.read_text(errors="replace")
            attempts = len(re.findall(r" attempt \d+: ", text))
            result.retried += attempts > 1
            if len(re.findall(r" score \d", text)) != 1 or text.rfind(" score ") < text.rfind(" attempt "):
                problems.append(f"{path.name}: not one score at its end")
        if kind in ("hang", "out-of-memory") and (self._orders / kind).exists():
            problems.append("no trial took the order")
        return problems + self._left_behind()

    def _left_behind(self, timeout: float = 20) -> list[str]:
        deadline = time.monotonic() + timeout
        while (left := leftovers(self._cluster)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def _drive(self, storage: Path) -> subprocess.Popen[bytes]:
        self._orders = storage.parent / "orders"
        self._orders.mkdir(exist_ok=True)
        self._log = storage.parent / "driver.log"
        command = [sys.executable, "experiments/benchmark.py", "faults", "--inside", str(self._study), str(storage)]
        with self._log.open("a") as log:
            self._driver = subprocess.Popen(
                [*command, self._cluster.address, str(self._orders)], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        return self._driver

    @contextmanager
    def _storage(self, name: str, kind: str) -> Iterator[Path]:
        """Makes a storage folder; a small disk of its own if it is to fail and this user may mount one."""
        folder = self._folder / name
        storage = folder / "runs"
        storage.mkdir(parents=True)
        own_disk = kind == "disk-full" and mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(storage))
        try:
            yield storage
        finally:
            self._driver.kill()
            self._driver.wait()
            if own_disk:
                subprocess.run(["umount", "--lazy", str(storage)], check=False)


class _NothingToBreak(Exception):
    """The run ended before its moment came."""


def write_study(folder: Path) -> Path:
    """Writes a tiny encoder and a study of widths 1/4, 1 and 2."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from xlmr_sweep.data.demo.models import build_model
    from xlmr_sweep.data.demo.tokenizer import build_tokenizer

    disable_progress_bar()
    models = []
    for number, (name, gpus) in enumerate({"quarter": "1/4", "one": 1, "two": 2}.items()):
        build_tokenizer(0, folder / name)
        size = len(json.loads((folder / name / "tokenizer.json").read_text())["model"]["vocab"])
        model = build_model("tiny", size + 5)
        with torch.no_grad():
            model.roberta.embeddings.word_embeddings.weight[0, 0] = number  # Three models with weights of their own.
        model.save_pretrained(folder / name)
        models.append({"name": name, "folder": name, "gpus": gpus, "cpus": 1})
    study = {
        "name": "faults",
        "models": models,
        "paradigms": ["prompted"],
        "tasks": ["cb"],
        "sizes": [8],
        "seeds": [0, 1, 2],
        "data": {"source": "demo"},
        "finetune": {"steps": 30, "batch_size": 8, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"},
        "cluster": {"gpus": 2 * NUM_GPUS, "trial_stall_s": STALL_S, "storage_patience_s": 60},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


@contextmanager
def _cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NUM_CPUS, "num_gpus": NUM_GPUS})
    add_node(cluster)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    # Nodes that are killed on purpose need not say so at length.
    ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Adds a node to the cluster."""
    cluster.add_node(num_cpus=NUM_CPUS, num_gpus=NUM_GPUS)


def outcome(storage: Path) -> dict[str, Any]:
    """Returns of each record its trial, score, ranks and predictions: what a fault must not change."""
    import pyarrow.parquet

    found = {}
    for path in (storage / "records").glob("*.json"):
        row = json.loads(path.read_text())
        predictions = pyarrow.parquet.read_table(storage / "predictions" / f"{path.stem}.parquet").to_pydict()
        found[path.stem] = (row["model"], row["score"].hex(), row["train_loss"].hex(), row["num_ranks"], predictions)
    return found


def names(storage: Path) -> list[str]:
    """Returns the names of the records."""
    with suppress(OSError):
        return [path.name for path in (storage / "records").glob("*.json")]
    return []


def stamps(storage: Path) -> dict[str, int]:
    """Returns when each record was written."""
    return {name: (storage / "records" / name).stat().st_mtime_ns for name in names(storage)}


def processes(cluster: Any) -> dict[int, str]:
    """Returns pid and title of the processes below the cluster's raylets."""
    table = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                table[int(entry.name)] = (parent, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    raylets = {node.all_processes["raylet"][0].process.pid for node in [cluster.head_node, *cluster.worker_nodes]}
    return {pid: title for pid, (parent, title) in table.items() if parent in raylets}


def processes_titled(cluster: Any, pattern: str) -> list[int]:
    """Returns the processes whose title matches."""
    return [pid for pid, title in processes(cluster).items() if re.match(pattern, title)]


def leftovers(cluster: Any) -> list[str]:
    """Returns actors, placement groups and processes of trials that are still there."""
    import ray
    from ray._private.state import actors

    left = [f"placement group {g['state']}" for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
    left += [f"actor {a['ActorClassName']}" for a in actors().values() if a["State"] != "DEAD" and a["ActorClassName"] != OF_RAY]
    quiet = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", f"ray::{OF_RAY}")
    left += [f"process {t.strip()}" for t in processes(cluster).values() if t.startswith("ray::") and not t.startswith(quiet)]
    return left


def mounted(*arguments: str) -> bool:
    """Runs `mount`; tells whether this user may."""
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@contextmanager
def failing(storage: Path, kind: str) -> Iterator[None]:
    """Makes the storage fail for the length of the block: for real where mounts are allowed, else by a file in its place."""
    if kind == "disk-full" and os.path.ismount(storage):
        filler = storage / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)
        yield
        filler.unlink()
    elif kind == "read-only" and mounted("--bind", str(storage), str(storage)):
        # Over the folder, not in its place: files that are open for writing would forbid the change.
        subprocess.run(["mount", "-o", "remount,bind,ro", str(storage)], check=True)
        yield
        subprocess.run(["umount", "--lazy", str(storage)], check=True)
    else:
        storage.rename(storage.with_name("away"))
        storage.touch()
        yield
        storage.unlink()
        storage.with_name("away").rename(storage)
