"""The commands of the README and of `docs/`: scripts, options and files exist, YAML loads, and what takes seconds is run."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import signal
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from builders import make_encoder, make_instructions, make_superglue
from pages import PAGES, ROOT, blocks, commands, inline_code, page_name
from rich.console import Console
from warm_process import run_warm

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.entry import Request
from xlmr_sweep.modeling.architecture import KNOWN
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, compacted
from xlmr_sweep.scheduling.speeds import CARD, INSTRUCTION_ROWS, PROMPT_TOKENS
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

BENCHMARKS = ROOT / "experiments" / "benchmarks"
OF_THE_SYSTEM = {
    "#!/bin/bash",
    ".",
    "chmod",
    "chromium",
    "export",
    "kill",
    "mkdir",
    "pre-commit",
    "sbatch",
    "scontrol",
    "sleep",
    "source",
    "ssh",
    "tensorboard",
}
"""Programs whose options are not looked at."""
PLACEHOLDERS = {"NAME", "STORAGE", "A", "B"}
ASSIGNMENT = re.compile(r"^\w+=")

each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """The scripts take over Ctrl-C when they are imported."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@each_page
def test_every_command_is_one_that_there_is(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    problems = [f"{' '.join(words)}: {problem}" for words in commands(page) if (problem := _problem(words))]
    assert problems == []


def _problem(words: Sequence[str]) -> str:
    """Says what is wrong with a command; empty if nothing is."""
    words = list(words)
    if re.match(r"\w+=\$\(", words[0]):
        # A variable of the shell, made by the system's programs.
        return ""
    if words[0] == "make":
        return _problem_of_make(words[1:])
    while words and (ASSIGNMENT.match(words[0]) or words[0] in ("nice", "time")):
        words.pop(0)
    if words and words[0] == "srun":
        # Its own options, and then a command.
        words = words[next((i for i, word in enumerate(words) if word in ("ray", "python")), len(words)) :]
    for sign in (">", "<", "|", "&"):
        words = words[: words.index(sign)] if sign in words else words
    if not words or words[0] in OF_THE_SYSTEM:
        return ""
    program, *rest = words
    known = {
        "python": _problem_of_python,
        "ray": _problem_of_ray,
        "pip": _problem_of_pip,
        "docker": _problem_of_docker,
        "hf": _problem_of_hf,
    }
    if program == "xlmr-sweep":
        return _problem_of_console(rest)
    return known[program](rest) if program in known else f"no program {program!r} is known here"


def _problem_of_make(words: Sequence[str]) -> str:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        if not re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", text, flags=re.MULTILINE):
            return f"the Makefile has no {name}"
    return ""


def _problem_of_python(words: Sequence[str]) -> str:
    first, *rest = words
    if first == "-c":
        ast.parse(rest[0])
        return ""
    if first == "-m":
        module, *rest = rest
        if module == "pytest":
            return next((f"no {word}" for word in rest if word.startswith("tests") and not (ROOT / word).exists()), "")
        return _problem_of_options(importlib.import_module(module).app, rest)
    if "/" not in first and next(ROOT.glob(f"[et]*/**/{first}"), None):
        # A script that others start.
        return ""
    if not (ROOT / first).is_file():
        return f"there is no {first}"
    if first == "experiments/benchmark.py":
        return _problem_of_benchmark(rest)
    if first.startswith("experiments/"):
        script = importlib.import_module(Path(first).stem)
        return _problem_of_options(getattr(script, "main", None) or getattr(script, script.__name__), rest)
    text = (ROOT / first).read_text(encoding="utf-8")
    return next((f"{first} knows no {word}" for word in rest if word.startswith("-") and word not in text), "")


def _problem_of_options(command: Any, words: Sequence[str]) -> str:
    """Has a command read its options as it would, without running it."""
    if not isinstance(command, typer.Typer):
        function, command = command, typer.Typer()
        command.command()(function)
    try:
        typer.main.get_command(command).make_context("command", list(words))
    except (click.ClickException, typer.Exit) as error:
        return "" if isinstance(error, typer.Exit) else error.format_message()
    except Exception as error:
        # typer carries a click of its own.
        return error.format_message() if hasattr(error, "format_message") else f"{type(error).__name__}: {error}"
    return ""


def _problem_of_console(words: Sequence[str]) -> str:
    app = importlib.import_module("xlmr_sweep.commands.subcommands").app
    known = {command.name: command.callback for command in app.registered_commands}
    if not words or words[0].startswith("-"):
        return _problem_of_options(app, words)
    name, *rest = words
    if name not in known:
        return f"xlmr-sweep has no {name}"
    if not rest:
        # A command that is only named.
        return ""
    if name in ("report", "compare"):
        return _problem_of_options(importlib.import_module(f"analysis.{name}").app, rest)
    return _problem_of_benchmark(rest) if name == "benchmark" else _problem_of_options(known[name], rest)


def _problem_of_benchmark(words: Sequence[str]) -> str:
    if not words or words[0] == "--help" or words[0] in PLACEHOLDERS:
        return ""
    path = BENCHMARKS / f"{words[0]}.py"
    if not path.is_file():
        return f"there is no benchmark {words[0]}"
    known = _strings(path)
    # A value to be filled in is written in capitals: FILE, ROWS.jsonl.
    options = [word for word in words[1:] if not re.fullmatch(r"\d+(\.\d+)?|[A-Z]+(\.[a-z]+)?", word)]
    return next((f"{words[0]} knows no {word}" for word in options if word not in known), "")


@cache
def _strings(path: Path) -> set[str]:
    """All texts in a file's code: the options and choices of a benchmark are among them."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _problem_of_ray(words: Sequence[str]) -> str:
    from ray.scripts.scripts import cli

    if not words:
        return ""
    name, *rest = words
    known = cli.commands
    if name == "job" and rest:
        known, (name, *rest) = known[name].commands, rest
    if name not in known:
        return f"ray has no {name}"
    names = {"start", name} if name == "symmetric-run" else {name}
    options = {option for each in names for parameter in known[each].params for option in parameter.opts}
    if "--" in rest:
        inner = rest[rest.index("--") + 1 :]
        if problem := _problem(inner):
            return problem
        rest = rest[: rest.index("--")]
    return next((f"ray {name} has no {word}" for word in rest if word.startswith("-") and word not in options), "")


def _problem_of_hf(words: Sequence[str]) -> str:
    name, *rest = words
    if name not in importlib.import_module("huggingface_hub.cli.hf").app.commands:
        return f"hf has no {name}"
    options = _options_of_hf(name)
    return next((f"hf {name} has no {word}" for word in rest if word.startswith("-") and word not in options), "")


def _options_of_hf(name: str) -> set[str]:
    # Its commands are imported when they are asked for.
    return _options(importlib.import_module("huggingface_hub.cli.hf").app.commands[name].materialize())


def _problem_of_pip(words: Sequence[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for before, word in zip(("", *words), words, strict=False):
        if before == "-c" and not (ROOT / word).is_file():
            return f"there is no {word}"
        if (asked := re.search(r"\[(.*)\]", word)) and not set(asked[1].split(",")) <= extras.keys():
            return f"pyproject.toml has no {word}"
    return ""


def _problem_of_docker(words: Sequence[str]) -> str:
    files = [word for before, word in zip(("", *words), words, strict=False) if before == "-f"]
    # One is made by `launch`.
    return next((f"there is no {file}" for file in files if file != "compose.yaml" and not (ROOT / file).is_file()), "")


OF_SLURM = {"--exclusive", "--signal", "--cpus-per-task"}


@each_page
def test_every_option_that_is_named_is_one_of_a_command(page: Path) -> None:
    from ray.scripts.scripts import cli

    from analysis import compare, report
    from xlmr_sweep.commands.subcommands import app

    known = {option for path in BENCHMARKS.glob("*.py") for option in _strings(path)} | OF_SLURM | {"--files"}
    known |= {option for command in (app, report.app, compare.app) for option in _options(typer.main.get_command(command))}
    known |= {option for name in ("start", "symmetric-run") for option in _options(cli.commands[name])}
    known |= _options_of_hf("download")
    named = {code.split(" ")[0].split("=")[0] for code in inline_code(page) if code.startswith("--")}
    assert {option for text in named for option in text.split("/")} - known == set()


def _options(command: Any) -> set[str]:
    """The options of a command and of its parts."""
    parts = getattr(command, "commands", {}).values()
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *(_options(part) for part in parts))


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python experiments/run_grid.py --study demo --sizes 8", ""),
        ("python experiments/run_grid.py --size 8", "No such option"),
        ("python experiments/run_all.py", "there is no experiments/run_all.py"),
        ("python -m analysis.report --results x --csv", "No such option"),
        ("python -m analysis.report", "Missing option"),
        ("python experiments/benchmark.py speed", "no benchmark speed"),
        ("python experiments/benchmark.py trials --part all-of-it", "knows no all-of-it"),
        ("make demos", "no demos"),
        ("make demo STORAGES=x", "no STORAGES"),
        ("ray start --heads", "has no --heads"),
        ("srun ray symmetric-run --address a:1 -- python experiments/run_grid.py --sizes", "requires an argument"),
        ("pip install -e '.[tests]'", "pyproject.toml has no"),
        ("hf download org/name --only x", "hf download has no --only"),
        ("sudo rm", "no program 'sudo'"),
    ],
)
def test_a_wrong_command_is_seen(command: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    found = _problem(shlex.split(command))
    assert problem in found if problem else found == ""


STUDIES = [(page, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), STUDIES, ids=[f"{page_name(page)}:{text.split()[1]}" for page, text in STUDIES])
def test_every_study_is_one_that_a_dry_run_takes(page: Path, text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    make_encoder(tmp_path / "minilm", "bert")
    make_superglue(tmp_path / "superglue", ("boolq", "cb", "copa", "rte", "wic"), num_train=64)
    make_instructions(tmp_path / "instructions.jsonl")
    study = load_study(str(path))
    for task in study.tasks:
        _make_rows((study.data.folder or tmp_path / "superglue") / task.folder, task.fields, task.labels)
    assert study.name == yaml.safe_load(text)["name"]
    assert len(expand(study)) > 0
    console = Console(quiet=True)
    assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), console) == 0


def _make_rows(folder: Path, fields: Sequence[str], labels: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", 64), ("val", 8)):
        if not (folder / f"{split}.jsonl").exists():
            rows = [dict.fromkeys(fields, "the cat sat") | {"label": labels[i % len(labels)], "idx": i} for i in range(number)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_dry_run_says_what_the_page_of_the_paper_says() -> None:
    page = (ROOT / "docs" / "reproducing-the-paper.md").read_text(encoding="utf-8")
    assert "python experiments/run_grid.py --dry-run" in page
    output = _run("experiments/run_grid.py", "--dry-run", "--storage", "runs/of-no-run")
    hours = re.search(r"([\d.]+) of fine-tuning, ([\d.]+) of instruction tuning. On 8 GPUs \(1 node\): ([\d.]+) h", output)
    assert hours is not None
    finetuning, instruct, makespan = hours.groups()
    assert f"| all | | {finetuning} | {instruct} GPU-hours | 470 and 548 | |" in page
    assert "for the same (table 1): 470 of fine-tuning, 548 of instruction tuning" in output
    assert f"{makespan} hours from start to end" in page
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│ xlmr-")]
    trials, jobs, memory = ({row[0]: row for row in cells if wanted(row)} for wanted in (_of_trials, _of_jobs, _of_memory))
    assert len(trials) == len(jobs) == len(memory) == 4
    for model, row in trials.items():
        job = f"{jobs[model][4]} on {jobs[model][2]}"
        line = rf"^\| {model} \| {row[4]} \| {re.escape(row[6])} \| {re.escape(job)} \|.*\| {re.escape(memory[model][5])} \|$"
        assert re.search(line, page, flags=re.MULTILINE), line


def _of_trials(row: Sequence[str]) -> bool:
    return len(row) == 8


def _of_jobs(row: Sequence[str]) -> bool:
    return len(row) == 6


def _of_memory(row: Sequence[str]) -> bool:
    return len(row) == 7


def test_the_arithmetic_of_the_paper_page_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "reproducing-the-paper.md").read_text(encoding="utf-8")
    study = load_study("paper")
    for measured, name in zip(CARD.steps, ("22 M encoder", "base", "large", "XL"), strict=True):
        cells = f"{name}, {measured.shape.vocabulary:,} | {measured.num_tokens:,} | {1e3 * measured.step_s:.2f}"
        assert f"| {cells} | {CARD.share_of_peak(measured.shape):.0%} |" in page
    mean = sum(min(size, study.finetune.batch_size) for size in study.sizes) / len(study.sizes)
    for model in study.models:
        full = KNOWN[str(model.hub)]
        shape, gpus = compacted(full, ASSUMED_ROWS), int(model.gpus)
        step_s = CARD.step_s(shape, mean * PROMPT_TOKENS, PROMPT_TOKENS, gpus)
        rows = [task.num_validation or 0 for task in study.tasks]
        trials = [CARD.trial_s(full, study.finetune, size, number, gpus) for size in study.sizes for number in rows]
        assert f"| {1e3 * step_s:.1f} | {sum(trials) / len(trials):.1f} |" in page
        assert f"| {CARD.job_s(full, study.instruct, INSTRUCTION_ROWS, 1) / 3600:.3g} |" in page


def test_status_and_comparison_of_a_storage_run_as_the_pages_say(tmp_path: Path) -> None:
    with tarfile.open(ROOT / "tests" / "kept" / "storage_of_0_1.tar.gz") as file:
        file.extractall(tmp_path, filter="data")
    runs = str(tmp_path / "runs")
    study = str(tmp_path / "study.yaml")
    assert "24 of 24 trials done" in _run("experiments/run_grid.py", "--study", study, "--storage", runs, "--status")
    assert _run("-m", "analysis.compare", runs, runs)


def _run(*arguments: str) -> str:
    environment = os.environ | {"COLUMNS": "160"}
    done = run_warm([sys.executable, *arguments], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
