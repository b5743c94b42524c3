"""The memory table of a dry run. In: a `MemoryForecast`. Out: a table and lines, in the order in which they are printed."""

from __future__ import annotations

from rich.table import Table

from xlmr_sweep.commands.memory_forecast import MemoryForecast, ModelMemory
from xlmr_sweep.modeling.gpu.footprint import PINNED_SHARE
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, GPU_BYTES

ROWS_ARE = {"measured": "", "counted": "<= ", "assumed": "about "}
"""What is written before a number of rows."""


def memory_parts(forecast: MemoryForecast) -> list[Table | str]:
    """Returns what a dry run says of memory; nothing where no model's shape is known."""
    if not forecast.models:
        return []
    return [
        part for part in (memory_table(forecast), bounds_line(forecast), pinned_line(forecast), unknown_line(forecast)) if part
    ]


def memory_table(forecast: MemoryForecast) -> Table:
    """Returns the table of what each model's trials take."""
    on_gpu = forecast.study.cluster.gpus > 0
    where = f"GPUs of {GPU_BYTES / 1e9:.0f} GB" if on_gpu else "CPUs"
    table = Table(title=f"Memory of a fine-tuning trial: inputs of {forecast.study.finetune.max_length} tokens, {where}")
    table.add_column("model")
    for column in ("M parameters", "rows kept", "M trained"):
        table.add_column(column, justify="right")
    for column in ("GPUs", "GB a GPU", "GPUs needed") if on_gpu else ("GB a process",):
        table.add_column(column, justify="right")
    for memory in forecast.models:
        rows = f"{ROWS_ARE[memory.rows_are]}{memory.rows:,}"
        sizes = [f"{memory.num_parameters / 1e6:,.1f}", rows, f"{memory.compact_parameters / 1e6:,.1f}"]
        taken = f"{memory.bytes_declared / 1e9:.1f}"
        needed = "more than 16" if memory.gpus_needed is None else str(memory.gpus_needed)
        table.add_row(memory.model, *sizes, *([memory.gpus_declared, taken, needed] if on_gpu else [taken]))
    return table


def bounds_line(forecast: MemoryForecast) -> str:
    """Returns the bound for models whose rows are assumed. Empty if there are none."""
    if not forecast.bounds:
        return ""
    on_gpu = forecast.study.cluster.gpus > 0
    bounds = ", ".join(
        f"{memory.model} {memory.bytes_declared / 1e9:.1f}{_fewest(memory) if on_gpu else ''}" for memory in forecast.bounds
    )
    return (
        f"About {ASSUMED_ROWS:,} rows are assumed for the different tokens of a task's texts; the first records show how many. "
        f"The bound, every row of the vocabulary, in GB: {bounds}."
    )


def pinned_line(forecast: MemoryForecast) -> str:
    """Returns what processes pin of a node's memory. Empty if they pin nothing."""
    pinned = [f"{memory.model} {memory.bytes_pinned / 1e9:.1f}" for memory in forecast.models if memory.bytes_pinned]
    if not pinned:
        return ""
    return (
        f"Host memory that each process pins for its starting weights, in GB: {', '.join(pinned)}. "
        f"If all processes of a node together would pin more than {PINNED_SHARE:.0%} of its memory, none does."
    )


def unknown_line(forecast: MemoryForecast) -> str:
    """Returns the models whose memory is not known. Empty if there are none."""
    if not forecast.without_shape:
        return ""
    return f"Memory not known before the model is there: {', '.join(forecast.without_shape)}"


def _fewest(memory: ModelMemory) -> str:
    return " (more than 16 GPUs needed)" if memory.gpus_needed is None else f" (GPUs needed: {memory.gpus_needed})"
