"""What a node says of itself when it is asked for `--check`. Run in a task on each node, or in the command's own process.

In: a `NodeQuestion`. Out: `NodeFacts`. Says what is there and judges nothing; `commands.node_checks` does.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import xlmr_sweep
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.hub_reach import hub_model_problem
from xlmr_sweep.storage.environment import host, machine_cpus, package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.user_cache import user_cache

PACKAGES = ("torch", "transformers", "tokenizers", "ray", "numpy", "pyarrow", "safetensors", "xlmr_sweep")
"""Must be the same on every node."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Memory limit of this container, by cgroup v2 and v1."""

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps its objects, and NCCL its buffers."""

CUDA_LIMIT_S = 20.0
"""CUDA starts within seconds. A driver that is broken may hang."""

START_CUDA = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"


@dataclass(frozen=True)
class NodeQuestion:
    """What a node is asked about."""

    storage: str = ""
    """The storage; empty to leave it out."""
    folder: str = ""
    """A folder in the storage, in which the driver has written the file `driver`."""
    node_id: str = ""
    """The name of this node's own file in that folder."""
    folders: tuple[str, ...] = ()
    """Folders of models that must be there."""
    hub_models: tuple[tuple[str, str], ...] = ()
    """Hub ids and revisions of models that must be in the cache, or on a hub that answers."""
    scratch: str = ""
    """The folder in which Ray keeps its session; empty for the one that this process would use."""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself. Sizes are in bytes."""

    host: str
    versions: dict[str, str]
    code: str
    """A hash of this project's source."""
    torch_cuda: str
    """The version of CUDA that torch was built for; empty for a build without CUDA."""
    driver: str
    """The version of NVIDIA's driver; empty where none answers."""
    driver_cuda: str
    """The newest CUDA that the driver knows."""
    cuda_problem: str
    """Why CUDA does not start; empty if it does, or where there is no driver."""
    gpus: tuple[tuple[str, int], ...]
    """Name and memory of each GPU."""
    cpus: int
    memory: int
    shared_memory: int
    """Size of `/dev/shm`; 0 where there is none."""
    open_files: int
    """Files that a process there may open, at most; -1 for no limit."""
    scratch: str
    scratch_free: int
    scratch_used: float
    """The part of its disk that is taken, in [0, 1]."""
    cache: str
    cache_problem: str
    cache_free: int
    storage_problem: str
    storage_free: int | None
    """None where that cannot be known, as for a bucket."""
    missing: tuple[str, ...]
    """Folders that are not there."""
    unreachable: tuple[str, ...] = ()
    """Which hub models are neither in the cache nor on a hub that answers, with the hub's words."""
    time_s: float = 0.0
    """Seconds since 1970 by this node's clock, when it had answered all else."""


def read_facts(question: NodeQuestion) -> NodeFacts:
    """Returns what this node says of itself."""
    driver, driver_cuda, gpus = _gpus()
    scratch = question.scratch or os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    disk = shutil.disk_usage(_existing(Path(scratch)))
    cache = user_cache()
    storage_problem, storage_free = _storage(question)
    return NodeFacts(
        host=host(),
        versions=package_versions(*PACKAGES),
        code=_code(),
        torch_cuda=_torch_cuda(),
        driver=driver,
        driver_cuda=driver_cuda,
        cuda_problem=_cuda_problem() if driver else "",
        gpus=gpus,
        cpus=machine_cpus(),
        memory=_memory(),
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        scratch=scratch,
        scratch_free=disk.free,
        scratch_used=disk.used / max(1, disk.used + disk.free),
        cache=str(cache),
        cache_problem=_write_problem(cache),
        cache_free=shutil.disk_usage(_existing(cache)).free,
        storage_problem=storage_problem,
        storage_free=storage_free,
        missing=tuple(folder for folder in question.folders if not Path(folder).is_dir()),
        unreachable=tuple(problem for model in question.hub_models if (problem := hub_model_problem(*model))),
        time_s=time.time(),
    )


def _gpus() -> tuple[str, str, tuple[tuple[str, int], ...]]:
    """Returns the driver's version, the CUDA that it knows, and the GPUs. Ray itself counts GPUs by the same library."""
    from ray._private.thirdparty import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "", "", ()
    try:
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [(_text(pynvml.nvmlDeviceGetName(gpu)), int(pynvml.nvmlDeviceGetMemoryInfo(gpu).total)) for gpu in handles]
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return "", "", ()
    finally:
        pynvml.nvmlShutdown()
    return driver, f"{number // 1000}.{number % 1000 // 10}", tuple(gpus)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cuda_problem() -> str:
    """Starts CUDA in a process of its own: Ray hides the GPUs from a task that holds none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", START_CUDA], env=environment, capture_output=True, text=True, timeout=CUDA_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if done.stdout.strip() == "0":
        return ""
    return f"error {done.stdout.strip()}" if done.stdout.strip() else (done.stderr.strip().splitlines() or ["it died"])[-1]


def _torch_cuda() -> str:
    """Reads which CUDA torch was built for from its file, because its import takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    with suppress(OSError):
        found = re.search(r"^cuda\b.*= '([\d.]+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
        return found[1] if found else ""
    return ""


@cache
def _code() -> str:
    """Returns a hash of this project's source: two checkouts of one version may differ."""
    root = Path(xlmr_sweep.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _memory() -> int:
    """Returns the memory of this machine, or of its container if that has less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        # `max` means that there is no limit.
        with suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _write_problem(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / f".check-{os.getpid()}"
        mark.write_bytes(b"ok")
        mark.unlink()
    except OSError as error:
        return " ".join(str(error).split())
    return ""


def _storage(question: NodeQuestion) -> tuple[str, int | None]:
    """Writes, reads and renames in the storage, and looks for what the driver wrote. Returns a problem, and the free bytes."""
    if not question.storage:
        return "", None
    free = None
    try:
        storage = Storage(question.storage)
        if storage.local is not None:
            free = shutil.disk_usage(_existing(storage.local)).free
        storage.check_writable()
        own = f"{question.folder}/{question.node_id}"
        storage.write(f"{own}.new", question.node_id.encode())
        storage.move(f"{own}.new", own)
        if not storage.exists(f"{question.folder}/driver"):
            return "does not hold what the driver wrote; use a folder or URI that all nodes share", free
    except (OSError, StudyError) as error:
        return " ".join(str(error).split()), free
    return "", free
