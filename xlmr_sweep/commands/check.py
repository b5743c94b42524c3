"""`--check`: checks everything that a run needs, and prints a line for each. Starts no Ray, no trial, and changes nothing.

In: a request and an address. Out: lines, and the exit status. With an address every node of the cluster is checked. Without one,
only this machine is.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from rich.console import Console

from xlmr_sweep.cluster.connect import connected, head_of
from xlmr_sweep.cluster.node_answers import NodeAnswer, NodeQuestions
from xlmr_sweep.cluster.node_facts import NodeQuestion, read_facts
from xlmr_sweep.cluster.surroundings import check_surroundings
from xlmr_sweep.cluster.token_file import find_token, is_open
from xlmr_sweep.commands.findings import Finding, print_findings
from xlmr_sweep.commands.input_checks import hub_models, input_findings, model_folders, node_needs
from xlmr_sweep.commands.node_checks import NodeNeeds, node_findings
from xlmr_sweep.commands.preparation import models_to_instruct
from xlmr_sweep.commands.request import OpenedRequest, Request, open_request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node, check_fits
from xlmr_sweep.storage.artifacts import DRIVER, TMP, temporary_file
from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.driver_lock import live_driver
from xlmr_sweep.storage.environment import machine_cpus
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.plan import Trial


def check(request: Request, address: str, console: Console) -> int:
    """Checks the study, the cluster or this machine, the storage, data and models.

    Returns:
        0, or 2 if something is wrong.
    """
    ours = logging.getLogger("xlmr_sweep")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        # Closed at once if the user leaves or the terminal goes away: then too nothing of the check stays in the storage.
        with closing(_findings(request, address)) as findings:
            return print_findings(console, findings)
    finally:
        ours.setLevel(before)


def _findings(request: Request, address: str) -> Generator[Finding]:
    opened: OpenedRequest | None = None
    done: set[str] = set()
    try:
        opened = open_request(request)
        done = collect(opened.storage, opened.study, opened.every).done
        left = sum(trial.trial_id not in done for trial in opened.trials)
        yield Finding("study", f"{opened.study.name}, {len(opened.trials)} trials, {left} to run; storage {opened.storage}")
    except StudyError as error:
        yield Finding("study", str(error), "wrong")
    if opened is not None:
        yield from _other_driver(opened)
    if address == "local":
        yield from _on_this_machine(opened, done)
    else:
        yield from _on_cluster(opened, done, address)


def _other_driver(opened: OpenedRequest) -> Iterator[Finding]:
    driver = live_driver(opened.storage)
    if driver:
        yield Finding("driver", f"{driver} runs this study now; another command would be refused", "note")


def _on_cluster(opened: OpenedRequest | None, done: set[str], address: str) -> Iterator[Finding]:
    try:
        target = head_of(address)
        yield _token(target)
        with connected(address):
            yield Finding("cluster", f"answers at {target}")
            # The nodes answer while data and models are looked at.
            with NodeQuestions(_question(opened, done), None if opened is None else opened.storage) as questions:
                yield from _inputs(opened, done)
                answers = questions.answers()
    except StudyError as error:
        yield Finding("cluster", str(error), "wrong")
        yield from _of_this_machine(opened, done)
    else:
        yield from _of_nodes(opened, done, answers)


def _on_this_machine(opened: OpenedRequest | None, done: set[str]) -> Iterator[Finding]:
    found = find_token()
    if found.problem:
        yield Finding("token", found.problem, "wrong")
    else:
        yield Finding("token", f"{found.where or 'made at the first start'}, for you alone")
    try:
        check_surroundings()
        yield Finding("cluster", "none is asked; a run starts a Ray of its own, open to this machine alone")
    except StudyError as error:
        yield Finding("cluster", str(error), "wrong")
    yield from _of_this_machine(opened, done)


def _of_this_machine(opened: OpenedRequest | None, done: set[str]) -> Iterator[Finding]:
    """Judges what can be known without a cluster."""
    yield from _inputs(opened, done)
    question = _question(opened, done)
    if opened is not None:
        # This machine asked the hub for the models a moment ago.
        question = replace(
            question, storage=opened.storage.uri, folder=temporary_file("check-here"), node_id="driver", hub_models=()
        )
    absent = opened.storage.absent_above() if opened is not None else ()
    try:
        facts = read_facts(question)
    finally:
        if opened is not None:
            with suppress(OSError, StudyError):
                opened.storage.delete(question.folder)
                opened.storage.remove_empty(DRIVER, TMP, "", above=absent)
    cluster = ClusterSpec() if opened is None else opened.study.cluster
    node = Node(cluster.cpus or machine_cpus(), len(facts.gpus) if cluster.gpus else 0)
    yield from _of_nodes(opened, done, [NodeAnswer(facts.host, node, 0, facts)])


def _inputs(opened: OpenedRequest | None, done: set[str]) -> Iterator[Finding]:
    if opened is not None:
        yield from input_findings(opened.study, opened.storage, _left(opened, done))


def _of_nodes(opened: OpenedRequest | None, done: set[str], answers: Sequence[NodeAnswer]) -> Iterator[Finding]:
    if opened is None:
        yield from node_findings(answers, NodeNeeds())
        return
    yield from node_findings(answers, node_needs(opened.study, opened.storage, opened.trials, done))
    study, left = opened.study, _left(opened, done)
    to_instruct = models_to_instruct(study, opened.storage, left)
    nodes = [answer.node for answer in answers]
    if len(answers) == 1 and not answers[0].node.node_id:
        # A Ray of the command's own has logical CPUs enough for the ranks of an instruction job.
        ranks = max((study.model(name).instruct_ranks for name in to_instruct), default=1)
        nodes = [replace(nodes[0], cpus=max(nodes[0].cpus, ranks))]
    try:
        check_fits(study, list(dict.fromkeys(trial.model for trial in left)), nodes, instruct=to_instruct)
        yield Finding("room", "every trial and instruction job fits")
    except StudyError as error:
        yield Finding("room", str(error), "wrong")


def _token(target: str) -> Finding:
    """Judges the token with which the head at HOST:PORT has just answered."""
    found = find_token()
    if found.problem:
        return Finding("token", found.problem, "wrong")
    if not is_open(target):
        return Finding("token", f"{found.where}; the cluster asks for it")
    advice = "anybody who reaches its ports can run code there: start Ray with RAY_AUTH_MODE=token"
    is_local = target.rpartition(":")[0].strip("[]") in ("127.0.0.1", "localhost", "::1")
    return Finding("token", f"the cluster asks for none; {advice}", "note" if is_local else "wrong")


def _question(opened: OpenedRequest | None, done: set[str]) -> NodeQuestion:
    if opened is None:
        return NodeQuestion()
    left = _left(opened, done)
    return NodeQuestion(folders=model_folders(opened.study, left), hub_models=hub_models(opened.study, left))


def _left(opened: OpenedRequest, done: set[str]) -> list[Trial]:
    """Returns the trials to run, or all trials if none is left, so that the check still tests the inputs."""
    return [trial for trial in opened.trials if trial.trial_id not in done] or list(opened.trials)
