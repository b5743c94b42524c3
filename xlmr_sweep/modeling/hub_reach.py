"""Whether the hub answers here, and what is done where it does not.

Its client and transformers try for minutes. A firewall drops what is sent, and each try waits then until its time is over. So the
hub is asked one question first. Where it is silent, only this machine's cache is read. Imports neither torch nor transformers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xlmr_sweep.storage.hub_cache import cached_model_file
from xlmr_sweep.study.model_files import CONFIG

HUB_TIMEOUT_S = 5.0

TRIES, PAUSE_S = 2, 1.0
"""A name server may fail once."""


def hub_silence() -> str:
    """Returns why the hub does not answer here; empty if it does, or if its client was told not to ask (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    problem = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE_S if attempt else 0.0)
        try:
            status = get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S).status_code
        except Exception as error:  # The hub's client raises dozens of unrelated classes.
            problem = _first_line(error)
            continue
        # Whatever else it answers, what is asked of it next is answered within seconds too.
        if status < 500:
            return ""
        problem = f"status {status}"
    return f"{constants.ENDPOINT} does not answer ({problem})"


@contextmanager
def hub_or_cache(say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Within the block, if the hub is silent, this process reads only its cache. What is not there fails at once.

    Args:
        say: is told that it is so.
    """
    from huggingface_hub import constants

    silence = hub_silence()
    if not silence:
        yield
        return
    say(f"Note: {silence}; only what this machine's cache holds (HF_HOME) is read")
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def hub_model_problem(name: str, revision: str) -> str:
    """Returns why a model of the hub cannot be had here; empty if it is in the cache or the hub would give it."""
    if cached_model_file(name, CONFIG, revision) is not None:
        return ""
    problem = hub_problem("model", name, revision)
    return problem and f"{name} is not in the cache and the hub does not give it ({problem})"


def hub_problem(kind: str, name: str, revision: str) -> str:
    """Returns why the hub does not give a model or a data set; empty if it would.

    Args:
        kind: `model` or `dataset`.
        name: its hub id.
        revision: of it.
    """
    from huggingface_hub import HfApi

    try:
        ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
        ask(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # As above.
        return _first_line(error)[:200]
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
