"""What a study needs of a cluster: nodes, GPUs, CPUs, memory and hours, as its dry run says. Imports neither torch nor ray."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xlmr_sweep.commands.dry_run import NODE_GPUS, cpus_per_gpu, make_forecast
from xlmr_sweep.commands.request import Request, open_request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.location import shown
from xlmr_sweep.study.reading import STUDY_FILES, folders_as_written
from xlmr_sweep.study.spec import Study

CPUS = 8
"""CPUs of a node without GPUs, where nobody says how many."""

GIB_PER_GPU, GIB_PER_CPU = 32, 4
"""Memory that is asked for, where nobody says how much."""

SPARE = 1.3
"""The time limit is this much more than the expected time, and half an hour."""

UNKNOWN_HOURS = 24.0
"""Time limit where the expected time is not known. A job that is ended by it goes on later."""


@dataclass(frozen=True)
class NodeSize:
    """The nodes to ask for, all alike."""

    nodes: int
    gpus: int
    cpus: int

    @property
    def memory_gib(self) -> int:
        """Memory of a node."""
        return GIB_PER_GPU * self.gpus + 16 if self.gpus else GIB_PER_CPU * self.cpus


@dataclass(frozen=True)
class StudyNeeds:
    """One study of a launch."""

    name: str
    study: str
    """As of `--study`, without dependence on the folder."""
    own_file: Path | None
    """A user's own study file."""
    folders: tuple[str, ...]
    """What that file names, as it spells it."""
    storage: str
    options: tuple[str, ...]
    """Further options of the run."""
    gpus: int
    """GPUs that the study expects."""
    cpus_per_gpu: float
    cpus: int | None
    """CPUs that the study expects where it expects no GPUs."""
    end_soon_s: float
    hours: float | None = None
    """Expected hours from start to end on the nodes; None if not known."""
    in_words: str = ""

    @property
    def label(self) -> str:
        """A name that Slurm, Kubernetes and Docker take."""
        return "xlmr-" + (re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40] or "study")


def node_size(studies: Sequence[StudyNeeds], nodes: int | None, gpus: int | None, cpus: int | None) -> NodeSize:
    """Returns the nodes to ask for: what was given, and for the rest what the studies expect.

    Raises:
        StudyError: if a number is too small.
    """
    for option, number, least in (("nodes", nodes, 1), ("gpus-per-node", gpus, 0), ("cpus-per-node", cpus, 1)):
        if number is not None and number < least:
            raise StudyError(f"--{option}: {number} is less than {least}")
    expected = max(study.gpus for study in studies)
    if gpus is None:
        gpus = min(NODE_GPUS, -(-expected // nodes) if nodes else expected)
    if nodes is None:
        nodes = max(1, -(-expected // gpus)) if gpus else 1
    if cpus is None:
        wanted = max(study.cpus_per_gpu for study in studies) * gpus if gpus else max(study.cpus or CPUS for study in studies)
        cpus = math.ceil(wanted)
    return NodeSize(nodes, gpus, cpus)


def study_needs(
    request: Request, storage: str, options: tuple[str, ...], sizes: tuple[int | None, int | None, int | None]
) -> StudyNeeds:
    """Works out what one study needs.

    Args:
        request: the study and which of its trials. Its storage is where the dry run looks.
        storage: storage of the run, as the cluster sees it.
        options: further options of the run.
        sizes: nodes, GPUs and CPUs of a node; None for those that were not given.

    Raises:
        StudyError: for anything wrong with the study, or if the nodes could never hold one of its trials or jobs.
    """
    if shown(storage) != storage:
        raise StudyError(f"--storage {shown(storage)}: the file would hold its keys; set them on the nodes")
    opened = open_request(request)
    study = opened.study
    # Not resolved: what the file names is relative to the folder in which it was named, also where that holds a link to it.
    own = Path(request.study).absolute() if Path(request.study).suffix.lower() in STUDY_FILES else None
    needs = StudyNeeds(
        study.name,
        str(own) if own else request.study,
        own,
        tuple(folders_as_written(request.study)) if own else (),
        storage,
        options,
        study.cluster.gpus,
        cpus_per_gpu(study),
        study.cluster.cpus,
        study.cluster.end_soon_s,
    )
    size = node_size([needs], *sizes)
    nodes = [Node(size.cpus, size.gpus, f"asked-{i}") for i in range(size.nodes)]
    on_these = _expecting(study, size.nodes * size.gpus)
    found = collect(opened.storage, study, opened.every)
    forecast = make_forecast(on_these, opened.storage, opened.trials, found, nodes, in_groups=False)
    hours = forecast.whole.makespan_s / 3600 if forecast.is_known else None
    time = "time not known" if hours is None else f"about {hours:.2g} h expected"
    kind = f"{size.gpus} GPUs" if size.gpus else f"{size.cpus} CPUs"
    where = f"{size.nodes} node{'s' * (size.nodes > 1)} of {kind}"
    in_words = f"{forecast.whole.left} of {forecast.whole.total} trials to run on {where}, {time}"
    return StudyNeeds(**{**vars(needs), "hours": hours, "in_words": in_words})


def time_limit(studies: Sequence[StudyNeeds], hours: float | None) -> str:
    """Returns the time limit of a job as Slurm reads it: days-hours:minutes:seconds.

    Raises:
        StudyError: if the hours are not above 0.
    """
    if hours is not None and hours <= 0:
        raise StudyError(f"--hours: {hours:g} is no time")
    expected = [UNKNOWN_HOURS if study.hours is None else SPARE * study.hours + 0.5 for study in studies]
    minutes = math.ceil(60 * (max(expected) if hours is None else hours))
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"


def _expecting(study: Study, gpus: int) -> Study:
    """Returns the study as one that expects so many GPUs."""
    return study.model_copy(update={"cluster": study.cluster.model_copy(update={"gpus": gpus})})
