"""`xlmr-sweep launch`: a complete file for Slurm, KubeRay, `ray up` or Docker Compose, made from a template in `launch/`.

In: what a user asked for. Out: the file's text, or the file submitted. Imports neither torch nor ray.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from xlmr_sweep.cluster.surroundings import LONGEST_SOCKET, SOCKET
from xlmr_sweep.commands.launch_needs import NodeSize, StudyNeeds, node_size, time_limit
from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.reading import CHECKOUT, shipped_folder

Kind = Literal["slurm", "kuberay", "ray-up", "compose"]

TEMPLATES: Mapping[Kind, str] = {
    "slurm": "slurm.sh.jinja",
    "kuberay": "kuberay.yaml.jinja",
    "ray-up": "ray-up.yaml.jinja",
    "compose": "compose.yaml.jinja",
}
DASHBOARD = "grafana-dashboard.json"
"""Grafana's page of a study."""

LEAVE_S = 20
"""Seconds between the end of the driver and of the nodes that have not left by themselves."""

IN_CONTAINER = "/study/study.yaml"
"""Where a user's study file lies in a container."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
"""Names of partitions, queues, claims, images, hosts and the like."""

SUBMIT: Mapping[Kind, tuple[tuple[str, ...], ...]] = {
    "slurm": (("sbatch", "FILE"),),
    "kuberay": (("kubectl", "apply", "-f", "FILE"),),
    "ray-up": (("ray", "up", "--yes", "FILE"), ("ray", "exec", "FILE", "--tmux", "COMMAND")),
    "compose": (("docker", "compose", "-f", "FILE", "up", "--detach"),),
}


@dataclass(frozen=True)
class Launch:
    """What a user asked for, besides the study. Empty fields were not given."""

    kind: Kind
    nodes: int | None = None
    gpus_per_node: int | None = None
    cpus_per_node: int | None = None
    memory_per_node: int | None = None
    """GiB."""
    hours: float | None = None
    template: str | None = None
    shared: bool = False
    partition: str = ""
    account: str = ""
    study_at: str = ""
    cluster_only: bool = False
    queue: str = ""
    namespace: str = ""
    image: str = ""
    volume: str = "xlmr-sweep"
    hosts: tuple[str, ...] = ()
    user: str = ""

    @property
    def num_nodes(self) -> int | None:
        """The number of nodes, where it was given or follows from the hosts."""
        return self.nodes if self.nodes is not None else len(self.hosts) or None

    def check(self) -> None:
        """Refuses names with characters that a name cannot have.

        Raises:
            StudyError: naming the option.
        """
        given = {name: getattr(self, name) for name in ("partition", "account", "queue", "namespace", "image", "volume", "user")}
        for option, value in [*given.items(), *(("hosts", host) for host in self.hosts)]:
            if value and not NAME.fullmatch(value):
                raise StudyError(f"--{option}: {value!r} is no name; use letters, digits and . _ : / @ -")
        if self.kind == "ray-up" and not self.hosts:
            raise StudyError("--hosts: name the machines, the one that runs the study first, as a,b")
        if self.kind == "ray-up" and self.nodes not in (None, len(self.hosts)):
            raise StudyError(f"--nodes: {self.nodes} nodes, and --hosts names {len(self.hosts)}; leave --nodes out")


def launch_text(launch: Launch, studies: list[StudyNeeds]) -> str:
    """Returns the file.

    Args:
        launch: what was asked for.
        studies: what each study needs. Only Slurm takes several.

    Raises:
        StudyError: if an option is wrong, or the template.
    """
    return _rendered(_template(launch), launch_values(launch, studies))


def launch_values(launch: Launch, studies: list[StudyNeeds]) -> dict[str, Any]:
    """Returns what a template may use, by name."""
    launch.check()
    if len(studies) > 1 and launch.kind != "slurm":
        raise StudyError(f"--study: {launch.kind} starts one study; only slurm takes several, as an array of jobs")
    size = node_size(studies, launch.num_nodes, launch.gpus_per_node, launch.cpus_per_node)
    first = studies[0]
    study_text = _travelling_study(launch, first)
    study = IN_CONTAINER if study_text else launch.study_at or first.study
    options = ["--study", study, "--storage", first.storage, *first.options]
    # KubeRay's head is one more node, on which no trial runs.
    num_nodes = size.nodes + (launch.kind == "kuberay")
    run = ["xlmr-sweep", "run", "--address", "auto", "--min-nodes", str(num_nodes), *options]
    at_home = CHECKOUT if (CHECKOUT / "constraints.txt").is_file() else None
    activate = ". ~/xlmr_sweep/.venv/bin/activate && " if at_home else ""
    return {
        "title": " ".join(f"Study {needs.name}: {needs.in_words}." for needs in studies),
        "name": first.label if len(studies) == 1 else "xlmr-sweep",
        **_sizes(launch, size, studies),
        "shared": launch.shared,
        "partition": launch.partition,
        "account": launch.account,
        "studies": [{"study": needs.study, "storage": needs.storage} for needs in studies],
        "options": first.options,
        "folder": str(Path.cwd()),
        "programs": str(Path(sys.executable).parent),
        "longest_scratch": LONGEST_SOCKET - len(SOCKET),
        "socket_bytes": len(SOCKET),
        "leave_s": LEAVE_S,
        "study_options": shlex.join(options),
        "command": activate + shlex.join(run) if launch.kind == "ray-up" else shlex.join(run),
        "activate": activate,
        "study_text": study_text,
        "mounts": _mounts(first) if study_text else {},
        "cluster_only": launch.cluster_only,
        "queue": launch.queue,
        "namespace": launch.namespace,
        "image": launch.image or ("xlmr-sweep:cuda" if size.gpus else "xlmr-sweep:cpu"),
        "volume": launch.volume,
        "ray_version": metadata.version("ray"),
        "hosts": launch.hosts,
        "user": launch.user or _user(),
        "checkout": str(at_home) if at_home else "",
        "token_file": str(Path.cwd() / "docker" / "secrets" / "ray_token"),
        "dashboard": json.dumps(json.loads((templates_folder() / DASHBOARD).read_text(encoding="utf-8"))),
    }


def _travelling_study(launch: Launch, needs: StudyNeeds) -> str:
    """Returns the text of a user's study that containers get with the file; empty if they have it, or need none."""
    if launch.study_at and (launch.kind != "kuberay" or not needs.own_file):
        raise StudyError("--study-at: only of kuberay, and of a study file of your own")
    if launch.kind not in ("kuberay", "compose") or needs.own_file is None or launch.study_at:
        return ""
    here_only = [folder for folder in needs.folders if launch.kind == "kuberay" and not folder.startswith("/")]
    if here_only:
        advice = "put the study's folder into the volume, and say where its file lies then, as --study-at /runs/own/own.yaml"
        raise StudyError(f"--study {needs.own_file}: no pod has what it names ({', '.join(here_only)}); {advice}")
    return needs.own_file.read_text(encoding="utf-8")


def _mounts(needs: StudyNeeds) -> dict[str, str]:
    """Returns the folders of this machine that a user's study names, and where its containers look for each."""
    assert needs.own_file is not None
    of_home = [folder for folder in needs.folders if folder.startswith("~")]
    if of_home:
        raise StudyError(f"--study {needs.own_file}: {of_home[0]} is another folder in a container; write it out")
    inside = PurePosixPath(IN_CONTAINER).parent
    return {str((needs.own_file.parent / f).resolve()): os.path.normpath(inside / f) for f in needs.folders}


def _sizes(launch: Launch, size: NodeSize, studies: list[StudyNeeds]) -> dict[str, Any]:
    """Returns nodes, their sizes and the times."""
    notice_s = max(needs.end_soon_s for needs in studies) + 2 * LEAVE_S
    return {
        "nodes": size.nodes,
        "gpus_per_node": size.gpus,
        "cpus_per_node": size.cpus,
        "cpus_given": launch.cpus_per_node is not None,
        "memory_gib": launch.memory_per_node or size.memory_gib,
        "memory_given": launch.memory_per_node is not None,
        "shm_gib": max(4, size.memory_gib // 4),
        "time_limit": time_limit(studies, launch.hours),
        "notice_s": int(notice_s),
        "grace_s": int(notice_s),
    }


def submit(launch: Launch, file: Path, values: Mapping[str, Any]) -> int:
    """Hands the file to the program that starts it. Returns the program's exit status.

    Raises:
        StudyError: if that program is not here.
    """
    for words in SUBMIT[launch.kind]:
        command = [{"FILE": str(file), "COMMAND": values["command"]}.get(word, word) for word in words]
        program = "docker compose" if launch.kind == "compose" else command[0]
        if shutil.which(command[0]) is None or (launch.kind == "compose" and not _has_compose()):
            raise StudyError(f"--submit: there is no {program} here; {file} is written, submit it where there is one")
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


def _has_compose() -> bool:
    """Tells whether docker has its plugin for compose files, which is a package of its own."""
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def templates_folder() -> Path:
    """Returns the folder of the templates that ship with the project."""
    return shipped_folder(CHECKOUT / "launch", TEMPLATES["slurm"])


def _template(launch: Launch) -> Path:
    path = Path(launch.template) if launch.template else templates_folder() / TEMPLATES[launch.kind]
    if not path.is_file():
        raise StudyError(f"--template: there is no file {path}")
    return path


def _rendered(path: Path, values: Mapping[str, Any]) -> str:
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What shells and YAML quote is not HTML. The usual sign of a comment, `{#`, is part of a shell's `${#name}`.
        autoescape=False,
        comment_start_string="[[#",
        comment_end_string="#]]",
    )
    environment.filters |= {
        "sh": lambda text: shlex.quote(str(text)),
        # Every JSON text is a YAML text.
        "yaml": lambda text: json.dumps(str(text), ensure_ascii=False),
        # Compose itself replaces what follows a dollar sign.
        "compose": lambda text: str(text).replace("$", "$$"),
    }
    try:
        return environment.from_string(path.read_text(encoding="utf-8")).render(values) + "\n"
    except jinja2.TemplateError as error:
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise StudyError(f"{path}{line}: {error}") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is no text in UTF-8") from None


def _user() -> str:
    import getpass

    return getpass.getuser()
