"""What `--status` and `--dry-run` say. Neither torch nor ray; nothing is started or changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xlmr_sweep.errors import StudyError
from xlmr_sweep.identity import mixture_name, recipe_folder_name
from xlmr_sweep.plan import Trial
from xlmr_sweep.records import Collected
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import ModelSpec, Study

# GPU-seconds of one trial and GPU-hours of one instruction job of the paper's models on H100s (paper, table 1; 315 trials each).
PAPER_COSTS = {
    "FacebookAI/xlm-roberta-base": (6 * 3600 / 315, 6 * 2),
    "FacebookAI/xlm-roberta-large": (10 * 3600 / 315, 12 * 2),
    "facebook/xlm-roberta-xl": (35 * 2 * 3600 / 315, 16 * 8),
    "facebook/xlm-roberta-xxl": (48 * 8 * 3600 / 315, 48 * 8),
}


def print_status(console: Console, found: Collected) -> None:
    """Prints done, failed and missing trials by model, paradigm and task."""
    done, failed = found.done, found.failed
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in found.planned:
        key = (cell["model"], cell["paradigm"], cell["task"])
        state = "done" if cell["trial_id"] in done else "failed" if cell["trial_id"] in failed else "missing"
        counts.setdefault(key, Counter())[state] += 1
    table = Table("model", "paradigm", "task", title=f"Study {found.study.name}")
    for column in ("done", "failed", "missing"):
        table.add_column(column, justify="right")
    for key, count in counts.items():
        table.add_row(*key, *(str(count[state]) for state in ("done", "failed", "missing")))
    console.print(table)
    total = len(found.planned)
    console.print(f"{len(done)} of {total} trials done, {len(failed)} failed, {total - len(done) - len(failed)} missing")
    notes = [
        (found.num_other_settings, "records of other settings are kept"),
        (found.num_stale, "records are stale and will run again"),
        (len(found.corrupt), "files in records/ are no records and will be set aside"),
    ]
    for number, text in notes:
        if number:
            console.print(f"{number} {text}")
    for trial_id, changed in found.stale.items():
        console.print(f"stale: records/{trial_id}.json: {changed}", highlight=False, soft_wrap=True)
    for name, problem in found.corrupt.items():
        console.print(f"corrupt: records/{name}: {problem}", highlight=False, soft_wrap=True)


def print_plan(console: Console, study: Study, storage: Storage, trials: Sequence[Trial], found: Collected) -> None:
    """Prints a dry run: what this command's trials need, what they cost where that is known, and what is done already."""
    done = found.done
    table = Table(title=f"Study {study.name}: {len(trials)} trials")
    table.add_column("model")
    for column in ("trials", "done", "to run", "GPUs a trial", "CPUs a rank", "GPU-hours to run"):
        table.add_column(column, justify="right")
    hours: dict[str, float] = {"known": 0.0, "instruct": 0.0}
    for name in dict.fromkeys(trial.model for trial in trials):
        model = study.model(name)
        mine = [trial for trial in trials if trial.model == name]
        left = [trial for trial in mine if trial.trial_id not in done]
        cost = _trial_gpu_hours(model)
        if cost is None:
            hours["unknown"] = 1.0
        hours["known"] += (cost or 0.0) * len(left)
        shown = "not measured" if cost is None else f"{cost * len(left):.0f}"
        gpus = f"{model.gpus:g}" if study.cluster.gpus else "none"
        table.add_row(name, *map(str, (len(mine), len(mine) - len(left), len(left))), gpus, f"{model.cpus:g}", shown)
    console.print(table)
    _print_instruction(console, study, storage, trials, hours)
    num_done = sum(trial.trial_id in done for trial in trials)
    console.print(f"{len(trials)} trials: {num_done} done, {len(trials) - num_done} to run; storage {storage}", soft_wrap=True)
    _print_hours(console, study, hours)
    _print_label_words(console, study, trials)


def _print_instruction(
    console: Console, study: Study, storage: Storage, trials: Sequence[Trial], hours: dict[str, float]
) -> None:
    names = list(dict.fromkeys(trial.model for trial in trials if trial.paradigm == "instructed"))
    if not names:
        return
    table = Table(title=f"Instruction tuning on data/{mixture_name(study)}")
    for column in ("model", "weights", "ranks", "state"):
        table.add_column(column)
    for name in names:
        model = study.model(name)
        if model.instructed_folder is not None:
            table.add_row(name, str(model.instructed_folder), "", "given")
            continue
        folder = recipe_folder_name(study, model)
        there = storage.exists(f"instruct/{folder}/manifest.json")
        table.add_row(name, f"instruct/{folder}", str(model.instruct_ranks), "done" if there else "to run")
        if not there and model.hub in PAPER_COSTS:
            hours["instruct"] += PAPER_COSTS[model.hub][1]
    console.print(table)


def _print_hours(console: Console, study: Study, hours: dict[str, float]) -> None:
    if not study.cluster.gpus or "unknown" in hours:
        return
    total = hours["known"] + hours["instruct"]
    console.print(
        f"GPU-hours by the paper's own figures (table 1): {hours['known']:.0f} of fine-tuning, {hours['instruct']:.0f} of "
        f"instruction tuning; at best {total / study.cluster.gpus:.0f} h on {study.cluster.gpus:g} GPUs"
    )


def _trial_gpu_hours(model: ModelSpec) -> float | None:
    """Returns the GPU-hours of one trial where the paper gives them for this model."""
    return PAPER_COSTS[model.hub][0] / 3600 if model.hub in PAPER_COSTS else None


def _print_label_words(console: Console, study: Study, trials: Sequence[Trial]) -> None:
    """Checks label words against tokenizers that lie in a folder; says which could not be checked."""
    from tokenizers import Tokenizer

    unchecked = []
    prompted = [trial for trial in trials if trial.paradigm != "baseline"]
    for model in (study.model(name) for name in dict.fromkeys(trial.model for trial in prompted)):
        path = model.folder / "tokenizer.json" if model.folder is not None else None
        if path is None or not path.is_file():
            unchecked.append(model.name)
            continue
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises the bare class.
            raise StudyError(f"model {model.name}: {path} is no tokenizer: {error}") from None
        for task in (study.task(name) for name in dict.fromkeys(trial.task for trial in prompted)):
            for word in task.label_words:
                tokens = tokenizer.encode(f" {word}", add_special_tokens=False).tokens
                if len(tokens) != 1 or tokens[0] in ("<unk>", "[UNK]"):
                    what = f"{len(tokens)} tokens" if len(tokens) != 1 else "an unknown token"
                    raise StudyError(f"model {model.name}: task {task.name}: label word {word!r} is {what}")
    if unchecked:
        console.print(f"Label words not checked (no tokenizer at hand): {', '.join(unchecked)}")
