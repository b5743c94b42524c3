"""How much memory a fine-tuning trial takes, by closed-form arithmetic. In: a study, shapes of its models. Out: bytes. No torch.

Weights, gradients and AdamW's two moments stand in fp32 (16 bytes a parameter) and are shared out over the ranks; what a step
computes comes on top. Counted are the tensors that autograd keeps, as our layers run (the last layer, which keeps less,
is counted whole): tests hold parameters against the meta device and kept tensors against what autograd keeps of fake tensors,
both at the real sizes, and the sum against a real trial's peak.

Symbols: hidden H, feed-forward F, h heads, N tokens of a step on one rank, in sequences of T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from xlmr_sweep.architecture import Architecture, shape_of
from xlmr_sweep.plan import Trial
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import AUTO, FinetuneSpec, Study
from xlmr_sweep.vocabulary import count_rows

ASSUMED_ROWS = 32_768
"""Embedding rows of a task whose texts are not at hand: more than the different tokens that its English texts are taken to hold.
A record tells the real number (`resolved.vocabulary_kept`)."""

GPU_BYTES = 80e9
"""Memory of the GPU that a dry run assumes (H100, A100: 80 GB)."""

GPU_RESERVE = 4e9
"""Bytes of a GPU that are not the trial's: context, communication buffers, fragmentation. Assumed."""

GATHERED_PARAMETERS = 2_000_000_000
"""Sharded models up to this size keep their gathered weights and whole gradients for the length of a step (modeling/fsdp.py)."""

PROCESS_BYTES = 355e6
"""Memory of its own that a CPU process has beside its trials: Python, torch, transformers, and what the first product brings
(338 + 17 MB measured, Linux x86-64)."""

HEAP_SHARE = 1.1
"""Memory that a CPU process holds for what it uses: freed pieces stay with it (measured 1.01 to 1.08 for 15 M parameters and 1.13
for XLM-R base with glibc)."""

CPU_INFO = Path("/proc/cpuinfo")

BACKWARD_LAYERS = 2
"""What the backward pass of a layer has in hand on a CPU, in units of what the layer kept (1.4 to 1.9 measured)."""


@dataclass(frozen=True)
class TrialMemory:
    """Bytes on one rank (one GPU, or one process on CPUs) at the peak of a trial."""

    states: float
    """Weights, gradients and moments."""
    gathered: float
    """Weights of other ranks, and copies in bf16, that a step holds."""
    computed: float
    """What the step computes and keeps for the backward pass."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.states + self.gathered + self.computed


@dataclass(frozen=True)
class Needs:
    """What a dry run says of one model's fine-tuning trials."""

    model: str
    num_parameters: int
    compact_parameters: int
    rows: int
    """Embedding rows that are kept."""
    rows_are: Literal["measured", "counted", "assumed"]
    """By earlier trials; in the tasks' texts, which is a bound; or neither (`ASSUMED_ROWS`)."""
    gpus_declared: str
    bytes_declared: float
    """Bytes a GPU with the GPUs that the study declares; for shares, of one trial; of a process where the study has no GPUs."""
    gpus_needed: int | None
    """Fewest GPUs (1, 2, 4, 8, 16) on which a trial fits; None where even those are too few."""


def compacted(shape: Architecture, rows: int) -> Architecture:
    """Returns the shape of the model that holds only so many embedding rows."""
    return replace(shape, vocabulary=min(rows, shape.vocabulary))


def trial_memory(
    shape: Architecture,
    finetune: FinetuneSpec,
    *,
    precision: str,
    num_ranks: int = 1,
    on_gpu: bool = True,
    dropout: bool = True,
) -> TrialMemory:
    """Returns the memory of one rank, for inputs of `finetune.max_length` tokens.

    Args:
        shape: of the model as it is trained, `compacted`.
        finetune: batch size and length.
        precision: `bf16` or `fp32`.
        num_ranks: over which the model is spread.
        on_gpu: with fused attention, which keeps no scores; else as on a CPU.
        dropout: whether masks of it are kept.
    """
    total = shape.num_parameters
    length = finetune.max_length
    tokens = -(-finetune.batch_size // num_ranks) * length
    width = 2 if precision == "bf16" else 4
    layer = layer_parameters(shape)
    rest = total - shape.num_layers * layer
    gathered = 0.0
    if num_ranks > 1:
        # Weights and, in fp32, gradients. Of a large model embeddings and head stay, and one layer computes while the next comes.
        # Embeddings and head are in fp32 in any case.
        layers = shape.num_layers if total <= GATHERED_PARAMETERS else 2
        gathered = (width + 4.0) * layers * layer + 8.0 * rest
    elif precision == "bf16":
        # Autocast keeps a bf16 copy of each product's weights for the backward pass.
        gathered = 2.0 * shape.num_layers * layer
    if not shape.is_fast:
        # Logits of every token and their gradient.
        gathered += 8.0 * tokens * shape.vocabulary
    each = tokens * token_bytes(shape, precision, length, on_gpu=on_gpu, dropout=dropout)
    if on_gpu:
        return TrialMemory(16.0 * total / num_ranks, gathered, shape.num_layers * each)
    if precision == "fp32" and not shape.pre_norm:
        gathered += 12.0 * shape.num_layers * shape.hidden**2  # Query, key and value as one matrix.
    # When the backward pass begins there are no gradients yet; when it ends, no kept tensors any more.
    computed = max((shape.num_layers + BACKWARD_LAYERS) * each, 4.0 * total / num_ranks - gathered)
    return TrialMemory(12.0 * total / num_ranks, gathered, computed)


def process_bytes(shape: Architecture, memory: TrialMemory, num_evaluation_tokens: int) -> float:
    """Returns the peak of a CPU process's own memory, for trials one after the other of one model.

    Args:
        shape: of the model as it is trained.
        memory: of its trial on this rank.
        num_evaluation_tokens: of its largest evaluation batch.
    """
    evaluation = 4.0 * shape.num_parameters + evaluation_bytes(shape, num_evaluation_tokens)
    return PROCESS_BYTES + HEAP_SHARE * max(memory.total, evaluation)


def evaluation_bytes(shape: Architecture, num_tokens: int) -> float:
    """Returns what a CPU computes at once in an evaluation batch of so many tokens: a layer's tensors, in fp32, or all logits."""
    return num_tokens * 4.0 * max(12 * shape.hidden + 2 * shape.ffn, 0 if shape.is_fast else shape.vocabulary)


def layer_parameters(shape: Architecture) -> int:
    """Returns the parameters of one layer: four products and two feed-forward products with bias, two normalisations."""
    h, f = shape.hidden, shape.ffn
    return 4 * (h * h + h) + (2 * h * f + f + h) + 4 * h


def token_bytes(shape: Architecture, precision: str, length: int, *, on_gpu: bool = True, dropout: bool = True) -> float:
    """Returns the bytes that one layer keeps of one token from the forward to the backward pass.

    On a CPU the attention's weights are kept too: `length` for each head.
    """
    h, f = shape.hidden, shape.ffn
    scores = 0 if on_gpu else shape.num_heads * length
    # A pre-norm layer drops nothing after its feed-forward products.
    masks = (1 if shape.pre_norm else 2) * h + scores if dropout else 0
    if precision == "bf16":
        # Input of query, key and value (cast for each) 6, the three 6, attended 2, two norms' inputs 8 (fp32), the cast before
        # the feed-forward product 2; padded for a GPU's attention, attended once more 2. Before and after the activation 4 F.
        return (26.0 if on_gpu else 24.0) * h + 4.0 * f + 2.0 * scores + masks
    # Post-norm: input, attended, two sums, between the halves. Pre-norm: two norms' inputs and outputs, attended. 5; query, key
    # and value in rows: 3.
    return 4.0 * (8 * h + 2 * f + scores) + masks


def gpus_needed(shape: Architecture, finetune: FinetuneSpec, precision: str, gpu_bytes: float = GPU_BYTES) -> int | None:
    """Returns the fewest GPUs on which a trial of a (compacted) shape fits; None where 16 are too few."""
    for number in (1, 2, 4, 8, 16):
        if trial_memory(shape, finetune, precision=precision, num_ranks=number).total <= gpu_bytes - GPU_RESERVE:
            return number
    return None


def known_rows(storage: Storage, trial_ids: Sequence[str]) -> dict[str, int]:
    """Returns the most embedding rows that a record kept, by model, of the records that are there."""
    rows: dict[str, int] = {}
    for trial_id in trial_ids:
        record = storage.read_json(f"records/{trial_id}.json") or {}
        kept = (record.get("resolved") or {}).get("vocabulary_kept")
        if kept:
            rows[record["model"]] = max(rows.get(record["model"], 0), int(kept))
    return rows


def needs(
    study: Study,
    shapes: Mapping[str, Architecture],
    trials: Sequence[Trial],
    measured: Mapping[str, int] | None = None,
    counted: Mapping[str, int] | None = None,
) -> list[Needs]:
    """Returns what each model's trials need, of the models whose shape is known.

    Args:
        study: the study.
        shapes: by model.
        trials: of this command.
        measured: embedding rows that earlier trials kept, by model (`known_rows`).
        counted: bounds on them, of models without those (`vocabulary.count_rows`).
    """
    found = []
    on_gpu = study.cluster.gpus > 0
    precision = study.finetune.precision
    if precision == "auto":
        precision = "bf16" if on_gpu or cpu_has_bf16() else "fp32"
    for name in dict.fromkeys(trial.model for trial in trials):
        if name not in shapes:
            continue
        full, model = shapes[name], study.model(name)
        kept, bound = (measured or {}).get(name), (counted or {}).get(name)
        small = compacted(full, kept or bound or ASSUMED_ROWS) if full.is_fast else full
        if on_gpu:
            taken = trial_memory(small, study.finetune, precision=precision, num_ranks=model.num_ranks).total
        else:
            memory = trial_memory(small, study.finetune, precision=precision, on_gpu=False)
            settings = study.finetune
            # As `finetune` evaluates.
            tokens = (
                settings.eval_tokens if full.is_fast else min(settings.eval_tokens, settings.batch_size * settings.max_length)
            )
            taken = process_bytes(small, memory, tokens)
        found.append(
            Needs(
                name,
                full.num_parameters,
                small.num_parameters,
                small.vocabulary,
                "measured" if kept else "counted" if bound or not full.is_fast else "assumed",
                str(model.gpus) if model.gpus == AUTO else f"{model.gpus:g}",
                taken,
                gpus_needed(small, study.finetune, precision),
            )
        )
    return found


def cpu_has_bf16() -> bool:
    """Returns whether this machine's CPU multiplies bf16 matrices itself, as `modeling.device.resolve_precision` asks torch."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "amx_tile" in flags or "avx512_bf16" in flags


def _fewest(need: Needs) -> str:
    return " (more than 16 GPUs needed)" if need.gpus_needed is None else f" (GPUs needed: {need.gpus_needed})"


def print_needs(console: Console, study: Study, storage: Storage, trials: Sequence[Trial], done: set[str]) -> None:
    """Prints what the fine-tuning trials of each model need, for a dry run.

    Args:
        console: where to.
        study: the study.
        storage: its folder, whose records tell how many embedding rows a task really keeps.
        trials: of this command.
        done: ids of the trials that have a record.
    """
    models = {name: study.model(name) for name in dict.fromkeys(trial.model for trial in trials)}
    shapes = {name: shape for name, model in models.items() if (shape := shape_of(study, storage, model)) is not None}
    # One record a cell of model and task: rows follow from the task's texts, its prompt or their absence, and nothing else.
    cells = {(trial.model, trial.task, trial.paradigm): trial.trial_id for trial in trials if trial.trial_id in done}
    measured = known_rows(storage, list(cells.values()))
    without = {trial.model for trial in trials if (trial.model, trial.task, trial.paradigm) not in cells} & set(shapes)
    counted = count_rows(study, storage, [trial for trial in trials if trial.model in without])
    # Some cells' records say nothing of another task's texts.
    found = needs(study, shapes, trials, {name: n for name, n in measured.items() if name not in counted}, counted)
    if not found:
        return
    on_gpu = study.cluster.gpus > 0
    where = f"GPUs of {GPU_BYTES / 1e9:.0f} GB" if on_gpu else "CPUs"
    table = Table(title=f"Memory of a fine-tuning trial: inputs of {study.finetune.max_length} tokens, {where}")
    table.add_column("model")
    for column in (
        "M parameters",
        "rows kept",
        "M trained",
        *(("GPUs", "GB a GPU", "GPUs needed") if on_gpu else ("GB a process",)),
    ):
        table.add_column(column, justify="right")
    for need in found:
        rows = {"measured": "", "counted": "<= ", "assumed": "about "}[need.rows_are] + f"{need.rows:,}"
        row = [need.model, f"{need.num_parameters / 1e6:,.1f}", rows, f"{need.compact_parameters / 1e6:,.1f}"]
        row += [need.gpus_declared] if on_gpu else []
        row += [f"{need.bytes_declared / 1e9:.1f}"]
        row += ["more than 16" if need.gpus_needed is None else str(need.gpus_needed)] if on_gpu else []
        table.add_row(*row)
    console.print(table)
    assumed = {need.model: shapes[need.model] for need in found if need.rows_are == "assumed"}
    if assumed:
        whole = needs(study, assumed, trials, counted={name: shape.vocabulary for name, shape in assumed.items()})
        bounds = ", ".join(f"{need.model} {need.bytes_declared / 1e9:.1f}{_fewest(need) if on_gpu else ''}" for need in whole)
        console.print(
            f"About {ASSUMED_ROWS:,} rows is assumed, for the different tokens of a task's texts; the first records tell. "
            f"The bound, every row of the vocabulary, in GB: {bounds}.",
            highlight=False,
            soft_wrap=True,
        )
    missing = [name for name in models if name not in shapes]
    if missing:
        console.print(f"Memory not known before the model is there: {', '.join(missing)}", highlight=False, soft_wrap=True)
