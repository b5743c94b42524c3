"""The commands as a user types them: their options and help, once for the scripts in `experiments/` and for `xlmr-sweep`.

In: the command line. Out: a request, which `entry` carries out, and the process ends with its exit status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep.errors import StudyError

if TYPE_CHECKING:
    from xlmr_sweep.commands.request import Request

StudyOption = Annotated[str, typer.Option(help="paper, demo, or the path of a YAML file")]
AddressOption = Annotated[str, typer.Option(help="auto, HOST:PORT, or local (a Ray of its own)")]
StorageOption = Annotated[str | None, typer.Option(help="path or URI; default runs/<the study's name>")]
ModelsOption = Annotated[str | None, typer.Option(help="only these models of the study, as a,b")]
TasksOption = Annotated[str | None, typer.Option(help="only these tasks of the study, as a,b")]
ParadigmsOption = Annotated[str | None, typer.Option(help="only these paradigms of the study, as a,b")]
SizesOption = Annotated[str | None, typer.Option(help="these training sizes instead, as 8,16; new ones extend the study")]
MinNodesOption = Annotated[
    int | None, typer.Option(min=1, help="wait up to ten minutes until the cluster has this many nodes, the head included")
]
VariantsOption = Annotated[
    str | None,
    typer.Option(help="only trials of these variants of the study, as a,b; shared trials count for the first"),
]
WatchOption = Annotated[
    bool,
    typer.Option("--watch", help="with --status: keep showing what the running study does"),
]
SeedsOption = Annotated[str | None, typer.Option(help="these seeds instead, as 0,1; new ones extend the study")]


def run_grid(
    study: StudyOption = "paper",
    address: AddressOption = "local",
    storage: StorageOption = None,
    models: ModelsOption = None,
    tasks: TasksOption = None,
    paradigms: ParadigmsOption = None,
    sizes: SizesOption = None,
    seeds: SeedsOption = None,
    variants: VariantsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan and what it needs; starts nothing")] = False,
    status: Annotated[bool, typer.Option("--status", help="show what is done, failed and missing; starts nothing")] = False,
    check: Annotated[bool, typer.Option("--check", help="look at all that a run needs, on every node; starts nothing")] = False,
    watch: WatchOption = False,
    check_models: Annotated[
        bool, typer.Option("--check-models", help="check every model and show a passport of each; starts nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option(help="run trials again whose last attempt failed")] = True,
    min_nodes: MinNodesOption = None,
) -> None:
    """Runs every trial of a study that has no record yet.

    Exit status: 0 all have one, 1 some have none, 2 something is wrong and nothing was started, 130 interrupted.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands import entry

        request = typed_request(study, storage, models, tasks, paradigms, sizes, seeds, variants)
        if watch and not status:
            raise StudyError("--watch: goes with --status")
        if status:
            return entry.status(request, console, keep_watching=watch)
        if check_models:
            return entry.check_models(request, console)
        if dry_run:
            return entry.dry_run(request, console)
        if check:
            return entry.check(request, address, console)
        return entry.run(request, address, console, retry_failed=retry_failed, min_nodes=min_nodes)

    exit_with(command)


def run_instruct(
    study: StudyOption = "paper",
    address: AddressOption = "local",
    storage: StorageOption = None,
    models: ModelsOption = None,
    min_nodes: MinNodesOption = None,
) -> None:
    """Makes the instruction-tuned weights that are missing.

    Exit status: 0 all are there, 1 a job failed, 2 something is wrong and nothing was started, 130 interrupted.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands import entry
        from xlmr_sweep.commands.request import Request

        request = Request(study, storage, models=names("--models", models), paradigms=("instructed",))
        return entry.instruct(request, address, console, min_nodes)

    exit_with(command)


def prepare_data(
    study: StudyOption = "paper",
    address: AddressOption = "local",
    storage: StorageOption = None,
    tasks: TasksOption = None,
    instructions: Annotated[bool, typer.Option(help="also the instruction data")] = True,
) -> None:
    """Reads, checks and keeps the tasks' examples and the filtered instruction data. The same command goes on where it was ended.

    Exit status: 0 done, 1 the storage failed, 2 something is wrong, 130 interrupted.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands import entry
        from xlmr_sweep.commands.request import Request

        return entry.prepare(Request(study, storage, tasks=names("--tasks", tasks)), address, console, instructions=instructions)

    exit_with(command)


def show_status(
    study: StudyOption = "paper",
    storage: StorageOption = None,
    models: ModelsOption = None,
    tasks: TasksOption = None,
    paradigms: ParadigmsOption = None,
    sizes: SizesOption = None,
    seeds: SeedsOption = None,
    watch: WatchOption = False,
) -> None:
    """Shows which trials of a study are done, failed and missing. Starts nothing.

    Exit status: 0 or 2; with --watch also 130, after Ctrl-C.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands import entry

        request = typed_request(study, storage, models, tasks, paradigms, sizes, seeds)
        return entry.status(request, console, keep_watching=watch)

    exit_with(command)


def names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Splits `a,b`.

    Raises:
        StudyError: if an option that was given names nothing.
    """
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise StudyError(f"{option}: {text!r} names nothing; leave the option out to mean all")
    return parts


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Splits `8,16`.

    Raises:
        StudyError: if the text is not a list of whole numbers.
    """
    parts = names(option, text)
    try:
        return None if parts is None else tuple(int(part) for part in parts)
    except ValueError:
        raise StudyError(f"{option}: {text!r} is not a list of whole numbers such as 8,16") from None


def typed_request(
    study: str,
    storage: str | None,
    models: str | None,
    tasks: str | None,
    paradigms: str | None,
    sizes: str | None,
    seeds: str | None,
    variants: str | None = None,
) -> Request:
    """Returns the request of options as they were typed.

    Raises:
        StudyError: for a list that is none.
    """
    from xlmr_sweep.commands.request import Request

    return Request(
        study,
        storage,
        names("--models", models),
        names("--tasks", tasks),
        names("--paradigms", paradigms),
        numbers("--sizes", sizes),
        numbers("--seeds", seeds),
        names("--variants", variants),
    )
