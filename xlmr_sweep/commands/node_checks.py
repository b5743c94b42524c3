"""What is wrong with the nodes of a cluster, or with this machine: judged from what each says of itself. Pure.

In: the answers of the nodes, and what the study needs of them. Out: findings. Imports neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xlmr_sweep.commands.dry_run_tables import size_text
from xlmr_sweep.commands.findings import Finding, of_nodes
from xlmr_sweep.modeling.gpu.footprint import may_pin
from xlmr_sweep.modeling.memory import GPU_RESERVE

if TYPE_CHECKING:
    from xlmr_sweep.cluster.node_answers import NodeAnswer
    from xlmr_sweep.cluster.node_facts import NodeFacts

MAX_SKEW_S = 5.0
"""Times of records and logs come from each node's own clock."""

MIN_OPEN_FILES, GOOD_OPEN_FILES = 128, 4096
"""With fewer, Ray's processes cannot talk to each other; and what a node with many trials needs."""

MIN_SCRATCH_BYTES = 2**30
MAX_SCRATCH_USED = 0.95
"""Ray makes no more objects on a disk that is fuller than this."""

MIN_SHARED_MEMORY = 2**28
"""Docker gives a container 64 MiB, in which Ray's objects and NCCL's buffers have no room."""


@dataclass(frozen=True)
class NodeNeeds:
    """What the study needs of the nodes. In bytes."""

    storage: float = 0.0
    """What the rest of the plan will write."""
    cache: float = 0.0
    """Copies of weights that a node keeps on its own disk."""
    weights: float = 0.0
    """The largest model's weights in fp32, which a node's processes share."""
    trials: Mapping[str, float] = field(default_factory=dict)
    """Memory of a trial by model: of each of its GPUs, or of its process where the study runs on CPUs."""
    pinned: Mapping[str, float] = field(default_factory=dict)
    """Host memory that a trial's process pins, by model, of models whose starting weights have no room on the GPU."""
    on_gpu: bool = False
    models: bool = False
    """Whether models come from folders or the hub."""


def node_findings(answers: Sequence[NodeAnswer], needs: NodeNeeds) -> list[Finding]:
    """Judges the nodes."""
    asked = of_nodes("nodes", [(answer.name, answer.problem) for answer in answers], _counted(answers))
    there = [(answer, answer.facts) for answer in answers if answer.facts is not None]
    if not there:
        return [asked]
    found = [
        asked,
        _versions(there),
        _code(there),
        of_nodes("CUDA and driver", [(a.name, _cuda(a, f)) for a, f in there], _drivers(there)),
        of_nodes("memory", [(a.name, _memory(f, needs)) for a, f in there], _sizes(there)),
        of_nodes("storage", [(a.name, _storage(f, needs)) for a, f in there], _free(there, needs)),
        of_nodes("scratch", [(a.name, _scratch(f)) for a, f in there], _least("free", [f.scratch_free for _, f in there])),
        of_nodes("cache", [(a.name, _cache(f, needs)) for a, f in there], _least("free", [f.cache_free for _, f in there])),
        _open_files(there),
        _shared_memory(there, needs),
    ]
    if needs.pinned:
        problems = [(answer.name, _pinned(facts, needs)) for answer, facts in there]
        found.append(of_nodes("pinned memory", problems, "room for the starting weights of each process", "note"))
    if len(there) > 1:
        found.append(of_nodes("clocks", [(a.name, _clock(a)) for a, _ in there], f"less than {MAX_SKEW_S:g} s apart"))
    if needs.models:
        found.append(of_nodes("models on nodes", [(a.name, _models(f)) for a, f in there], "each has the folders or the hub"))
    return found


def _counted(answers: Sequence[NodeAnswer]) -> str:
    cpus, gpus = sum(answer.node.cpus for answer in answers), sum(answer.node.gpus for answer in answers)
    return f"{len(answers)}, with {cpus:g} CPUs and {gpus:g} GPUs"


def _versions(there: Sequence[tuple[NodeAnswer, NodeFacts]]) -> Finding:
    """Compares every node with the first: what differs is wrong on the fewer."""
    names = list(dict.fromkeys(name for _, facts in there for name in facts.versions))
    wrong = []
    for name in names:
        by_version: dict[str, list[str]] = {}
        for answer, facts in there:
            by_version.setdefault(facts.versions.get(name, "none"), []).append(answer.name)
        if len(by_version) > 1:
            wrong.append(f"{name}: " + ", ".join(f"{version} on {', '.join(nodes)}" for version, nodes in by_version.items()))
    if wrong:
        return Finding("Python and packages", f"{'; '.join(wrong)}; install the same constraints.txt everywhere", "wrong")
    versions = there[0][1].versions
    missing = [name for name in ("torch", "transformers", "ray") if name not in versions]
    if missing:
        return Finding("Python and packages", f"{', '.join(missing)} is not installed; `pip install -e .`", "wrong")
    return Finding("Python and packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _code(there: Sequence[tuple[NodeAnswer, NodeFacts]]) -> Finding:
    codes = {facts.code for _, facts in there}
    if len(codes) > 1:
        said = ", ".join(f"{facts.code} on {answer.name}" for answer, facts in there)
        return Finding("this project", f"its source differs ({said}); put the same checkout on every node", "wrong")
    return Finding("this project", f"the same source everywhere ({codes.pop()})")


def _cuda(answer: NodeAnswer, facts: NodeFacts) -> str:
    if not answer.node.gpus:
        return ""
    counted = f"Ray counts {answer.node.gpus:g} GPUs"
    if not facts.driver:
        return f"{counted} and no NVIDIA driver answers; install it, or give the container its GPUs (`--gpus all`)"
    if not facts.torch_cuda:
        return f"{counted} and torch {facts.versions.get('torch')} is a build without CUDA; install the build with it"
    if _major(facts.driver_cuda) < _major(facts.torch_cuda):
        knows = f"driver {facts.driver} knows CUDA {facts.driver_cuda} and torch wants {facts.torch_cuda}"
        return f"{knows}; install a newer driver, or torch for CUDA {_major(facts.driver_cuda)}"
    if facts.cuda_problem:
        return f"CUDA does not start ({facts.cuda_problem}); `nvidia-smi` may say why"
    if len(facts.gpus) < answer.node.gpus:
        return f"{counted} and the driver has {len(facts.gpus)}; start Ray there without --num-gpus"
    return ""


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _drivers(there: Sequence[tuple[NodeAnswer, NodeFacts]]) -> str:
    with_gpus = [facts for answer, facts in there if answer.node.gpus]
    if not with_gpus:
        return "not needed, no GPUs are used"
    kinds = sorted({f"driver {facts.driver}, CUDA {facts.driver_cuda}, torch for {facts.torch_cuda}" for facts in with_gpus})
    return "; ".join(kinds)


def _memory(facts: NodeFacts, needs: NodeNeeds) -> str:
    # The smallest GPU counts, because a trial may be given any.
    room = min((memory for _, memory in facts.gpus), default=0) - GPU_RESERVE if needs.on_gpu else facts.memory
    if needs.on_gpu and not facts.gpus:
        return ""
    too_large = [f"{model} ({size_text(taken)})" for model, taken in needs.trials.items() if taken > room]
    if not too_large:
        return ""
    what = "GPU" if needs.on_gpu else "machine"
    advice = "give the model more GPUs (`gpus:`)" if needs.on_gpu else "lower batch_size, or use a larger machine"
    return f"a trial of {', '.join(too_large)} does not fit the {what}, which has room for {size_text(max(0, room))}; {advice}"


def _pinned(facts: NodeFacts, needs: NodeNeeds) -> str:
    card = max((memory for _, memory in facts.gpus), default=0)
    refused = [
        f"{model} ({size_text(taken)} a process)"
        for model, taken in needs.pinned.items()
        if facts.gpus and not may_pin(taken, len(facts.gpus), card, facts.memory)
    ]
    if not refused:
        return ""
    slower = "each of their trials starts some seconds later"
    return f"{size_text(facts.memory)} are too little to pin the starting weights of {', '.join(refused)}; {slower}"


def _sizes(there: Sequence[tuple[NodeAnswer, NodeFacts]]) -> str:
    kinds: dict[str, list[str]] = {}
    for answer, facts in there:
        gpus = "".join(f", {len(facts.gpus)} x {name} of {size_text(memory)}" for name, memory in dict.fromkeys(facts.gpus))
        kinds.setdefault(f"{size_text(facts.memory)}{gpus if answer.node.gpus else ''}", []).append(answer.name)
    return "; ".join(f"{', '.join(nodes)}: {kind}" if len(kinds) > 1 else f"{kind} a node" for kind, nodes in kinds.items())


def _storage(facts: NodeFacts, needs: NodeNeeds) -> str:
    if facts.storage_problem:
        return facts.storage_problem
    if facts.storage_free is not None and facts.storage_free < needs.storage:
        free = f"{size_text(facts.storage_free)} free, the plan needs about {size_text(needs.storage)}"
        return f"{free}; free some space, or take another"
    return ""


def _free(there: Sequence[tuple[NodeAnswer, NodeFacts]], needs: NodeNeeds) -> str:
    known = [facts.storage_free for _, facts in there if facts.storage_free is not None]
    free = f"{size_text(min(known))} free" if known else "free space is not known"
    where = " from each node" if len(there) > 1 else ""
    return f"written, read and renamed{where}; {free}, the plan needs about {size_text(needs.storage)}"


def _clock(answer: NodeAnswer) -> str:
    if abs(answer.skew_s) <= MAX_SKEW_S:
        return ""
    return f"its clock is {abs(answer.skew_s):.0f} s {'ahead' if answer.skew_s > 0 else 'behind'}; set it by NTP"


def _models(facts: NodeFacts) -> str:
    parts = [f"there is no {folder}; put the model under the same path on every node" for folder in facts.missing]
    return "; ".join([*parts, *facts.unreachable])


def _scratch(facts: NodeFacts) -> str:
    if facts.scratch_free >= MIN_SCRATCH_BYTES and facts.scratch_used < MAX_SCRATCH_USED:
        return ""
    state = f"{facts.scratch} is {100 * facts.scratch_used:.0f}% full, {size_text(facts.scratch_free)} free"
    return f"{state}; Ray makes no objects on a disk above {100 * MAX_SCRATCH_USED:.0f}%: free some space or set RAY_TMPDIR"


def _cache(facts: NodeFacts, needs: NodeNeeds) -> str:
    if facts.cache_problem:
        return f"{facts.cache} cannot be written ({facts.cache_problem}); set XDG_CACHE_HOME to a folder that can"
    if facts.cache_free < needs.cache:
        free = f"{size_text(facts.cache_free)} free in {facts.cache}"
        return f"{free}, copies of weights need {size_text(needs.cache)}; set XDG_CACHE_HOME"
    return ""


def _least(word: str, sizes: Sequence[int]) -> str:
    return f"{size_text(min(sizes))} {word}{' or more on each node' if len(sizes) > 1 else ''}"


def _open_files(there: Sequence[tuple[NodeAnswer, NodeFacts]]) -> Finding:
    limits = [(answer.name, facts.open_files) for answer, facts in there if facts.open_files >= 0]
    least = min((limit for _, limit in limits), default=-1)
    state = "wrong" if 0 <= least < MIN_OPEN_FILES else "note"
    problems = [
        (name, f"a process may open {limit} files; `ulimit -n {GOOD_OPEN_FILES}` before Ray is started")
        for name, limit in limits
        if limit < GOOD_OPEN_FILES
    ]
    good = "no limit" if least < 0 else f"{least:,} a process"
    return of_nodes("open files", problems, good, "wrong" if state == "wrong" else "note")


def _shared_memory(there: Sequence[tuple[NodeAnswer, NodeFacts]], needs: NodeNeeds) -> Finding:
    problems = []
    for answer, facts in there:
        wanted = max(MIN_SHARED_MEMORY, answer.object_store, int(needs.weights))
        there_is = f"{size_text(facts.shared_memory)} in /dev/shm"
        problem = f"{there_is}, and Ray's objects want {size_text(wanted)}; `--shm-size` of a container"
        problems.append((answer.name, problem if facts.shared_memory < wanted else ""))
    # Ray then keeps its objects on the disk of its session.
    return of_nodes("shared memory", problems, _least("in /dev/shm", [facts.shared_memory for _, facts in there]), "note")
