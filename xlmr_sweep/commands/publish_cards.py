"""The cards of what `publish` makes: of the data set and of instruction-tuned weights. In: derived tables. Out: Markdown.

Cards begin with the metadata that the Hugging Face hub reads (YAML between two lines of dashes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xlmr_sweep.commands.publish_data import MANIFEST, RESULTS, predictions_name
from xlmr_sweep.storage.artifacts import DATA, PREDICTIONS, STUDY_FILE

if TYPE_CHECKING:
    import pandas as pd

    from analysis.citation import Citation
    from analysis.derive import Derived
    from xlmr_sweep.study.spec import Study

TAGS = ["instruction-tuning", "masked-language-modeling", "few-shot-classification", "xlmr_sweep"]


@dataclass(frozen=True)
class CardFacts:
    """What all cards of one publication say."""

    study: Study
    """As published: without the folders of the machine."""
    derived: Derived
    cited: Citation
    author: str = ""
    """Whose repository it is, on the hub."""
    url: str = ""
    """Of the data set, on the hub."""
    license: str = ""
    """Identifier of the licence, such as cc-by-4.0, if the user gave one."""


def data_card(facts: CardFacts, tasks: Sequence[str]) -> str:
    """Returns the card of the data set: what it is, its files, tables, deviations from the paper, and how to cite it.

    Args:
        facts: what all cards say.
        tasks: tasks with predictions.
    """
    from analysis.provenance import deviations

    study, cited = facts.study, facts.cited
    configs = [{"config_name": "results", "data_files": RESULTS, "default": True}]
    configs += [{"config_name": f"predictions-{task}", "data_files": predictions_name(task)} for task in tasks]
    metadata = {
        "pretty_name": cited.title,
        **license_of(facts),
        "language": ["en"],
        "task_categories": ["text-classification"],
        "tags": TAGS,
        "configs": configs,
    }
    differences = deviations(study) or ["None in what the paper states."]
    parts = [
        f"# {cited.title}",
        "Does instruction tuning make an encoder a better few-shot learner? Each trial fine-tunes one model on a few examples of "
        "one task: as a plain classifier (`baseline`), by a prompt (`prompted`), or by a prompt after instruction tuning "
        "(`instructed`).",
        _in_numbers(facts),
        "## Files",
        _file_list(tasks),
        "## Integral Performance Ratio",
        "Area under the first learning curve over the area under the second, minus 1, in percentage points: mean ± sample "
        "standard deviation over seeds. The average pools all values of all tasks.",
        *ratio_tables(facts),
        "## Scores",
        "From 0 to 1: " + ", ".join(f"{task.metric.replace('_', '-')} on {task.name}" for task in study.tasks) + ".",
        *score_tables(facts),
        "## What is there",
        markdown(_counts(facts)),
        "## How the study differs from the paper’s",
        "\n".join(f"* {line}" for line in differences),
        citation_part(facts),
    ]
    return card(metadata, parts)


def card(metadata: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Returns a card: its metadata, and its paragraphs without empty ones."""
    from analysis.citation import as_yaml

    header = as_yaml(dict(metadata))
    return f"---\n{header}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def license_of(facts: CardFacts) -> dict[str, str]:
    """Returns the metadata of the licence, if there is one."""
    return {"license": facts.license} if facts.license else {}


def _in_numbers(facts: CardFacts) -> str:
    study, cited = facts.study, facts.cited
    names = {"models": [model.name for model in study.models], "tasks": [task.name for task in study.tasks]}
    lines = [f"* {what}: {', '.join(items)}" for what, items in names.items()]
    lines += [f"* {what}: {', '.join(map(str, getattr(study, what)))}" for what in ("paradigms", "sizes", "seeds")]
    lines.append(f"* trials: {cited.num_trials:,} of {cited.num_planned:,} planned ones have a result")
    prints = {"study": cited.study, "results": cited.results}
    lines += [f"* fingerprint of the {what}: `{value}`" for what, value in prints.items() if value]
    return "\n".join(lines)


def _file_list(tasks: Sequence[str]) -> str:
    predictions = f", such as `{predictions_name(tasks[0])}`" if tasks else ""
    return "\n".join(
        [
            f"* `{RESULTS}`: one row a trial, with its score from 0 to 1, times and versions",
            f"* `{DATA}/{PREDICTIONS}/`: one row an evaluation example of a trial, one file a task{predictions}: label, "
            "prediction and the probability of each class. Examples are named by their id; their texts are not here",
            "* `tables/`: the tables of the study's report as CSV",
            f"* `{STUDY_FILE}`: the study; `xlmr-sweep run --study {STUDY_FILE}` runs it again if the hub has its data",
            f"* `{MANIFEST}`: fingerprints of data and weights, and the hash of every file",
        ]
    )


def ratio_tables(facts: CardFacts, model: str | None = None) -> list[str]:
    """Returns the tables of IPR, all models' or one's; for one model only that of instruction tuning."""
    from analysis.sections.ipr import ipr_matrix

    table, parts = facts.derived["ipr"], []
    models = [item.name for item in facts.study.models] if model is None else [model]
    tasks = [task.name for task in facts.study.tasks]
    there = table[table["model"].isin(models) & (table["num_seeds"] > 0)]
    for comparison in there["comparison"].drop_duplicates():
        if model is None or comparison == "instructed/prompted":
            heading = f"IPR, {comparison.replace('/', ' over ')}:"
            parts += [heading, markdown(ipr_matrix(table[table["comparison"] == comparison], models, tasks))]
    return parts or ["No pair of curves has an IPR yet."]


def score_tables(facts: CardFacts, model: str | None = None) -> list[str]:
    """Returns mean scores: at the largest size of all models, or at every size of one model."""
    from analysis.display import mean_std

    points = facts.derived["curves"]
    points = points[points["num_seeds"] > 0]
    largest = max(facts.study.sizes)
    chosen = points[points["train_size"] == largest] if model is None else points[points["model"] == model]
    if chosen.empty:
        return [f"No trial at size {largest} has a result yet." if model is None else "No trial has a result yet."]
    shown = chosen.assign(score=[mean_std(row, 3) for row in chosen.to_dict("records")])
    rows = ["model", "paradigm"] if model is None else ["paradigm", "train_size"]
    order = {name: i for i, name in enumerate(facts.study.paradigms)}
    wide = shown.pivot_table(index=rows, columns="task", values="score", aggfunc="first", sort=False).reset_index()
    wide = wide.sort_values("paradigm", key=lambda names: names.map(order), kind="stable")
    if model is None:
        models = {item.name: i for i, item in enumerate(facts.study.models)}
        wide = wide.sort_values("model", key=lambda names: names.map(models), kind="stable")
    size = f" at {largest} training examples" if model is None else ""
    return [f"Mean over seeds{size}, with the sample standard deviation.", markdown(wide.fillna("–"))]


def _counts(facts: CardFacts) -> pd.DataFrame:
    """Returns how many trials there are, a row a model and paradigm."""
    table = facts.derived["completeness"].drop(columns="task")
    return table.groupby(["model", "paradigm"], sort=False).sum().reset_index()


def citation_part(facts: CardFacts) -> str:
    """Returns the part that says how to cite the results."""
    from analysis.citation import bibtex

    return f"## Citation\n\n```bibtex\n{bibtex(facts.cited, facts.author, facts.url)}```"


def markdown(table: pd.DataFrame) -> str:
    """Returns a table in GitHub's Markdown."""

    def line(cells: Any) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(table.columns), line(["---"] * len(table.columns)), *map(line, table.itertuples(index=False))])
