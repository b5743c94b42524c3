"""What `--dry-run` shows. In: a `Forecast`. Out: tables and lines, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from xlmr_sweep.commands.dry_run import Forecast, GroupForecast
from xlmr_sweep.scheduling.speeds import CARD, INSTRUCTION_SHARE, PROMPT_TOKENS
from xlmr_sweep.storage.artifacts import mixture_folder
from xlmr_sweep.storage.files import Storage

IN_WORDS = {
    "measured": "from measured trials",
    "scaled": "from other measured trials, by operations",
    "card": "by speeds measured on an H100, by operations",
    "gang": "by an H100's speeds, exchange between GPUs assumed",
    "share": "at an assumed share of an H100's peak",
    "paper": "by the paper's GPU-hours",
    "operations": "by operations at an assumed speed",
    "unknown": "not known",
}
"""Of `Estimate.source`."""


def forecast_parts(forecast: Forecast, storage: Storage) -> list[Table | str]:
    """Returns what a dry run says: what the trials need, what they are expected to take, and what is done already."""
    whole = forecast.whole
    parts = [
        trials_table(forecast),
        groups_table("task", forecast.by_task, forecast.unit) if len(forecast.by_task) > 1 else None,
        groups_table("variant", forecast.by_variant, forecast.unit) if forecast.by_variant else None,
        instruction_table(forecast) if forecast.instruction else None,
        f"{whole.total} trials: {whole.total - whole.left} done, {whole.left} to run; storage {storage}",
        times_line(forecast),
        speeds_line(forecast),
        paper_line(forecast),
        alone_table(forecast),
        disk_line(forecast),
    ]
    return [part for part in parts if part]


def trials_table(forecast: Forecast) -> Table:
    """Returns the table of what each model's trials take."""
    table = Table(title=f"Study {forecast.study.name}: {forecast.whole.total} trials")
    table.add_column("model")
    unit = forecast.unit
    for column in ("trials", "done", "to run", f"{unit}s a trial", "CPUs a rank", f"{unit}-hours to run"):
        table.add_column(column, justify="right")
    table.add_column("expected")
    for name, group in forecast.by_model.items():
        width = forecast.widths[name]
        share = f"{width.total_gpus if unit == 'GPU' else width.total_cpus:g}"
        share = "measured first" if name in forecast.probing else share
        sources = "; ".join(text for source, text in IN_WORDS.items() if source in group.sources)
        table.add_row(name, *_counts(group), share, f"{forecast.study.model(name).cpus:g}", _hours(group), sources)
    return table


def groups_table(what: str, groups: Mapping[str, GroupForecast], unit: str) -> Table:
    """Returns the table of what the trials of each task or variant take. What variants share is counted under the first."""
    table = Table(what)
    for column in ("trials", "done", "to run", f"{unit}-hours to run"):
        table.add_column(column, justify="right")
    for name, group in groups.items():
        table.add_row(name, *_counts(group), _hours(group))
    return table


def instruction_table(forecast: Forecast) -> Table:
    """Returns the table of the instruction-tuned weights that the trials start from."""
    mixtures = {job.mixture for job in forecast.instruction if job.mixture} or {mixture_folder(forecast.study)}
    has_several = len(mixtures) > 1
    table = Table(title="Instruction tuning" if has_several else f"Instruction tuning on {min(mixtures)}")
    for column in ("model", "weights", *(["data"] if has_several else []), "ranks", "state", "hours", "expected"):
        table.add_column(column)
    for job in forecast.instruction:
        ranks = "" if job.state == "given" else str(job.ranks)
        hours, expected = "", ""
        if job.estimate is not None:
            hours = "not known" if job.estimate.source == "unknown" else f"{job.estimate.seconds / 3600:.3g}"
            expected = IN_WORDS[job.estimate.source]
        table.add_row(job.model, job.weights, *([job.mixture] if has_several else []), ranks, job.state, hours, expected)
    return table


def times_line(forecast: Forecast) -> str:
    """Returns the sum of the expected hours; empty where some are not known or nothing is to run."""
    tuning, instruction = forecast.hours
    if not forecast.is_known or not tuning + instruction:
        return ""
    unit = forecast.unit
    amount = sum(node.gpus if unit == "GPU" else node.cpus for node in forecast.nodes)
    nodes = "1 node" if len(forecast.nodes) == 1 else f"{len(forecast.nodes)} nodes"
    return (
        f"{unit}-hours expected: {tuning:.3g} of fine-tuning, {instruction:.3g} of instruction tuning. On {amount:g} {unit}s "
        f"({nodes}): {forecast.whole.makespan_s / 3600:.3g} h from start to end; no order takes less than "
        f"{forecast.whole.lower_bound_s / 3600:.3g} h"
    )


def speeds_line(forecast: Forecast) -> str:
    """Returns which card's speeds are assumed, and where they come from; empty where no estimate rests on them."""
    sources = forecast.whole.sources | {cost.source for _, cost in forecast.jobs.values()}
    said = []
    if sources & {"card", "gang"}:
        gang = f", GPUs of a gang exchange {CARD.link_bytes_s / 1e9:.0f} GB/s, which is assumed" if "gang" in sources else ""
        said.append(
            f"fine-tuning by those of one {CARD.name} ({CARD.source}), by operations at the share of peak of the nearest "
            f"measured shape, texts of {PROMPT_TOKENS} tokens{gang}"
        )
    if "share" in sources:
        peak = f"{CARD.peak_flops / 1e12:.0f} TFLOP/s"
        said.append(f"instruction tuning at {INSTRUCTION_SHARE:.0%} of {peak}, which is assumed and was not measured")
    return f"Speeds: {'; '.join(said)}" if said else ""


def paper_line(forecast: Forecast) -> str:
    """Returns the paper's GPU-hours for the same trials. Empty if it has none, or if nothing is to run."""
    if not forecast.paper_hours or not sum(forecast.paper_hours):
        return ""
    tuning, instruction = forecast.paper_hours
    return f"The paper's GPU-hours for the same (table 1): {tuning:.3g} of fine-tuning, {instruction:.3g} of instruction tuning"


def alone_table(forecast: Forecast) -> Table | None:
    """Returns a table of what a command for only one model or task would take. None if that says nothing new."""
    if not forecast.whole.left or len(forecast.by_model) == len(forecast.by_task) == 1:
        return None
    table = Table(title="One model or task alone, with the instruction jobs that it needs")
    table.add_column("alone")
    for column in ("hours from start to end", "no order takes less", "disk"):
        table.add_column(column, justify="right")
    for name, group in [*forecast.by_model.items(), *forecast.by_task.items(), *forecast.by_variant.items()]:
        times = (group.makespan_s, group.lower_bound_s)
        hours = [f"{seconds / 3600:.3g}" if forecast.is_known else "not known" for seconds in times]
        more = "more than " if None in group.disk.values() else ""
        table.add_row(name, *hours, more + size_text(sum(size for size in group.disk.values() if size is not None)))
    return table


def disk_line(forecast: Forecast) -> str:
    """Returns how much the storage grows, by what it is; empty if it does not grow."""
    known = {what: size for what, size in forecast.whole.disk.items() if size}
    if not known:
        return ""
    parts = ", ".join(f"{size_text(size)} {what}" for what, size in known.items())
    missing = [what for what, size in forecast.whole.disk.items() if size is None]
    unknown = f"; not known: {', '.join(missing)}" if missing else ""
    return f"Disk in the storage: {size_text(sum(known.values()))} at most: {parts}{unknown}"


def size_text(size: float) -> str:
    """Writes a number of bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _counts(group: GroupForecast) -> tuple[str, str, str]:
    return str(group.total), str(group.total - group.left), str(group.left)


def _hours(group: GroupForecast) -> str:
    if "unknown" in group.sources:
        return "not known"
    return f"{group.hours:.3g}" if group.hours < 10 else f"{group.hours:.0f}"
