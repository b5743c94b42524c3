"""`xlmr-sweep launch` as a user types it: options and help. In: the command line. Out: a file, printed, written or submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xlmr_sweep.commands.command_line import (
    ModelsOption,
    ParadigmsOption,
    SeedsOption,
    SizesOption,
    TasksOption,
    names,
    typed_request,
)
from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep.errors import StudyError

if TYPE_CHECKING:
    from xlmr_sweep.commands.launch import Launch
    from xlmr_sweep.commands.launch_needs import StudyNeeds

KINDS = ("slurm", "kuberay", "ray-up", "compose")

StudiesOption = Annotated[list[str] | None, typer.Option(help="paper, demo, or a YAML file; for slurm several times: an array")]
StorageOption = Annotated[str | None, typer.Option(help="as the nodes see it; default runs/<the study's name>, /runs/<name>")]
MemoryOption = Annotated[int | None, typer.Option(help="GiB; default 16 and 32 a GPU, or 4 a CPU; slurm: the site's")]


def launch_study(
    kind: Annotated[str, typer.Argument(help="slurm, kuberay, ray-up (workstations) or compose")],
    study: StudiesOption = None,
    storage: StorageOption = None,
    models: ModelsOption = None,
    tasks: TasksOption = None,
    paradigms: ParadigmsOption = None,
    sizes: SizesOption = None,
    seeds: SeedsOption = None,
    nodes: Annotated[int | None, typer.Option(help="nodes with trials; default: for the GPUs that the study expects")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="default: those that the study expects, at most 8")] = None,
    cpus_per_node: Annotated[int | None, typer.Option(help="default: what the trials on a node need; whole nodes: all")] = None,
    memory_per_node: MemoryOption = None,
    hours: Annotated[float | None, typer.Option(help="time limit (slurm); default: a third more than expected")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="slurm: nodes that other jobs use too")] = False,
    partition: Annotated[str, typer.Option(help="slurm")] = "",
    account: Annotated[str, typer.Option(help="slurm")] = "",
    study_at: Annotated[str, typer.Option(help="kuberay: where your study's file lies in the pods, as /runs/own/own.yaml")] = "",
    cluster_only: Annotated[bool, typer.Option("--cluster-only", help="kuberay: a RayCluster in place of a RayJob")] = False,
    queue: Annotated[str, typer.Option(help="kuberay: Kueue's local queue")] = "",
    namespace: Annotated[str, typer.Option(help="kuberay")] = "",
    volume: Annotated[str, typer.Option(help="kuberay: the volume claim that becomes /runs")] = "xlmr-sweep",
    image: Annotated[str, typer.Option(help="kuberay, compose: an image of docker/Dockerfile")] = "",
    hosts: Annotated[str | None, typer.Option(help="ray-up: the machines, as a,b; the first runs the study")] = None,
    user: Annotated[str, typer.Option(help="ray-up: the user of SSH; default: you")] = "",
    template: Annotated[str | None, typer.Option(help="your own in place of the project's, which lie in launch/")] = None,
    out: Annotated[str | None, typer.Option(help="write the file there")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="write the file and start it")] = False,
) -> None:
    """Prints a file that starts a study on a cluster, made from the study's own needs.

    Exit status: 0; 2 something is wrong and nothing was started; with --submit that of the program that starts it.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands.launch import Launch

        _check_kind(kind)
        asked = Launch(
            kind, nodes, gpus_per_node, cpus_per_node, memory_per_node, hours, template, shared, partition, account,  # type: ignore[arg-type]
            study_at, cluster_only, queue, namespace, image, volume, names("--hosts", hosts) or (), user,
        )  # fmt: skip
        lists = {"models": models, "tasks": tasks, "paradigms": paradigms, "sizes": sizes, "seeds": seeds}
        chosen = study or ["paper"]
        if storage is not None and len(chosen) > 1:
            raise StudyError("--storage: a storage belongs to one study; leave it out for several (runs/<name> each)")
        return _write(asked, [_needs(asked, each, storage, lists) for each in chosen], console, out, submit)

    exit_with(command)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise StudyError(f"launch: no kind {kind!r}; there are {', '.join(KINDS)}")


def _needs(asked: Launch, study: str, storage: str | None, lists: dict[str, str | None]) -> StudyNeeds:
    """Returns what one study needs."""
    from xlmr_sweep.commands.launch_needs import study_needs
    from xlmr_sweep.study.reading import load_study

    name = load_study(study).name
    if storage is None:
        if asked.kind == "ray-up" and len(asked.hosts) > 1:
            raise StudyError("--storage: give a folder that all machines share, or a URI")
        storage = f"/runs/{name}" if asked.kind in ("kuberay", "compose") else str(Path("runs", name).absolute())
    elif "://" not in storage:
        storage = str(Path(storage).absolute())
    options = [word for option, text in lists.items() if text is not None for word in (f"--{option}", text)]
    # What a container holds cannot be seen from here. A storage of this machine is another one, whatever its name.
    here = f"/nowhere/{name}" if asked.kind in ("kuberay", "compose") else storage
    request = typed_request(study, here, *lists.values())
    return study_needs(request, storage, tuple(options), (asked.num_nodes, asked.gpus_per_node, asked.cpus_per_node))


def _write(asked: Launch, studies: list[StudyNeeds], console: Console, out: str | None, submit: bool) -> int:
    """Prints the file, or writes it and starts it."""
    from xlmr_sweep.commands.launch import launch_text, launch_values
    from xlmr_sweep.commands.launch import submit as start

    text = launch_text(asked, studies)
    if out is None and not submit:
        # As it is: a console would fold long lines.
        typer.echo(text, nl=False)
        return 0
    values = launch_values(asked, studies)
    file = Path(out or f"{values['name']}.{'sh' if asked.kind == 'slurm' else 'yaml'}")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"--out: cannot write {file}: {error}") from None
    console.print(f"Wrote {file}", highlight=False, markup=False, soft_wrap=True)
    return start(asked, file, values) if submit else 0
