"""Connecting to Ray: a Ray of this command's own, or a running cluster, with token authentication.

In: the `--address` option. Out: a connection, or one clear line within seconds. `ray.init` itself waits over 90 s where nobody
answers, and a minute with a wrong token. So the port and the token are tried first.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import grpc
import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.authentication.grpc_authentication_client_interceptor import _get_authentication_metadata_tuple
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import find_node_ids
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.job_config import JobConfig

from xlmr_sweep.cluster.head_watch import RETURN_S, HeadWatch, answers, gone
from xlmr_sweep.cluster.loopback import on_loopback, who_reaches
from xlmr_sweep.cluster.surroundings import check_surroundings, is_busy, why_not_started
from xlmr_sweep.cluster.token_file import protect_token
from xlmr_sweep.errors import ClusterGoneError, StorageError, StudyError
from xlmr_sweep.interrupt import end_command
from xlmr_sweep.storage.environment import machine_cpus

PROBE_TIMEOUT_S = 5.0

MAX_STARTS = 4
"""A local Ray that is not up in time, on a busy machine, is started again; its own limit is half a minute."""

LISTED_TASKS, MOST_LISTED_TASKS = "RAY_task_events_max_num_task_in_gcs", 1000
"""How many tasks Ray keeps for its dashboard, the last ones; a trial is one. Read by the head when it starts."""

TOKEN_PLACES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"

TOKEN_TIMEOUT_S = 20.0
"""On a busy machine, a head that has just opened its port takes seconds to answer."""

NODE_S = 30.0
"""How long a driver waits for a node of Ray on its own machine: a head opens its port before its node runs."""

JOIN_S = 60.0
"""For how long a driver tries again to join a cluster whose head answers."""


@contextmanager
def connected(
    address: str, num_cpus: int | None = None, num_gpus: int | None = None, metadata: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Connects to Ray for the length of the block. Ends a Ray that it started.

    Args:
        address: `local` (start a Ray for this command), `auto` (the cluster that runs on this machine), or HOST:PORT.
        num_cpus: CPUs of a local Ray; None for the machine's.
        num_gpus: GPUs of a local Ray; None for the machine's.
        metadata: shown with this command's job in Ray's dashboard.

    Yields:
        The dashboard's address and in brackets who reaches it, if others than this machine do. Empty where there is no dashboard.

    Raises:
        StudyError: if nobody answers there, or the token is missing or wrong.
    """
    # Trials set the study's own number of threads. Without this, Ray would set the variable from the CPUs of each actor.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    head = ""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    own = ExitStack()
    try:
        if address == "local":
            own.enter_context(on_loopback())
        job = JobConfig(metadata=dict(metadata or {}))
        context = _start_local(num_cpus, num_gpus, job) if address == "local" else _join(address, job)
        head = str(context.address_info["gcs_address"])
        # Ray installs a handler that ends the process with another status. Ours ends the command in order.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        watch = HeadWatch(head, _say, end_command, RETURN_S if address != "local" else 0.0)
        with watch.running():
            url = str(context.dashboard_url or "")
            yield url and f"http://{url}{who_reaches(url, is_token_auth_enabled())}"
    except (StudyError, StorageError):
        raise
    except Exception as error:
        # Calls to a Ray that is gone fail in many ways, mostly with a page of text.
        if head and not answers(head):
            raise ClusterGoneError(gone(head)) from error
        raise
    finally:
        # Without its head this would wait for a minute. Ray's own processes on this machine end with this one.
        if not head or answers(head):
            ray.shutdown()
        own.close()


def _say(line: str) -> None:
    # Not by a console of rich's own: a live table has put its own stream in place of this one.
    print(line, file=sys.stderr, flush=True)


def _start_local(num_cpus: int | None, num_gpus: int | None, job: JobConfig) -> ray.RayContext:
    check_surroundings()
    os.environ.pop("RAY_ADDRESS", None)
    protect_token()
    # Of a dashboard that does not start it prints the end of a log, with a traceback. The run goes on without one.
    logging.getLogger("ray._private.services").setLevel(logging.CRITICAL)
    # The dashboard's page of a job reads all of them: with 2,000 trials that takes a second or more.
    os.environ.setdefault(LISTED_TASKS, str(MOST_LISTED_TASKS))
    for remaining in reversed(range(MAX_STARTS)):
        try:
            return ray.init(
                # Without this Ray would join a cluster that happens to run on this machine.
                address="local",
                num_cpus=machine_cpus() if num_cpus is None else num_cpus,
                num_gpus=num_gpus,
                # None starts a dashboard too. With True, a dashboard that is not up within a minute would end the study.
                include_dashboard=None,
                dashboard_host="127.0.0.1",
                job_config=job,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray has no class of its own for processes that are not up within half a minute.
            if remaining and is_busy(error):
                ray.shutdown()
                continue
            raise StudyError(f"--address local: Ray did not start on this machine: {why_not_started(error)}") from error
    raise AssertionError("not reached")


def head_of(address: str) -> str:
    """Returns HOST:PORT of the cluster that an address means, once its head has answered this process with its token.

    Raises:
        StudyError: within seconds, if nobody or something that is no Ray head answers, or if the token is missing or wrong.
    """
    target = find_cluster() if address == "auto" else address
    probe(target)
    # With an explicit address Ray 2.60 does not read the token by itself. It warns when it finds one, which nobody needs to see.
    logging.getLogger(maybe_enable_token_auth_if_token_available.__module__).setLevel(logging.ERROR)
    with _one_line(address, target):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        _check_token(address, target)
    return target


def _join(address: str, job: JobConfig) -> ray.RayContext:
    target = head_of(address)
    _wait_for_node(address, target)
    last = time.monotonic() + JOIN_S
    with _one_line(address, target):
        while True:
            try:
                return ray.init(address=target, job_config=job, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError:
                # A head answers before it can tell of its nodes, and late where its machine is busy.
                ray.shutdown()
                if time.monotonic() > last or not answers(target):
                    raise
                time.sleep(1.0)


def _wait_for_node(address: str, target: str) -> None:
    """Waits until a node of Ray runs on this machine: a driver is part of one, and `ray.init` would wait for a minute."""
    last = time.monotonic() + NODE_S
    while not find_node_ids():
        if time.monotonic() > last:
            start = f"start one here with `ray start --address={target}`"
            others = "or run this command on one of its nodes, or by `ray job submit`"
            raise StudyError(f"--address {address}: no node of a Ray cluster runs on this machine; {start}, {others}")
        time.sleep(0.5)


@contextmanager
def _one_line(address: str, target: str) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        # The first sentence says what is wrong; a page of advice follows on the same line.
        said = _first_line(error).split(". ")[0]
        raise StudyError(f"--address {address}: {said}; give the cluster's token in {TOKEN_PLACES}") from None
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        # Ray's own words name only the address; why it failed stands in the error below.
        why = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
        raise StudyError(f"--address {address}: cannot connect to the cluster at {target}: {_first_line(error)}{why}") from None


def find_cluster() -> str:
    """Returns HOST:PORT of the cluster that `auto` means: RAY_ADDRESS, else the cluster started last on this machine.

    Raises:
        StudyError: if there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    try:
        found = canonicalize_bootstrap_address("auto")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"--address auto: {_first_line(error)}") from None
    if not found:
        raise StudyError("--address auto: no Ray cluster runs on this machine; start one with `ray start --head`, or use local")
    return str(found)


def probe(target: str) -> None:
    """Tries the TCP port of HOST:PORT.

    Raises:
        StudyError: if the address is malformed or nobody answers.
    """
    if target.startswith("ray://"):
        raise StudyError(f"--address {target}: a driver joins the cluster itself, not Ray Client; give HOST:PORT of the head")
    host, separator, port = target.rpartition(":")
    if not separator or not port.isdigit():
        raise StudyError(f"--address {target}: not of the form auto, local or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise StudyError(f"--address {target}: nobody answers ({error}); is the cluster's head running there?") from None


def _check_token(address: str, target: str) -> None:
    """Asks the head one question with this process's token. `ray.init` would try for a minute before it says what is wrong.

    Raises:
        StudyError: if the token is missing or wrong, or the head does not answer.
    """
    channel = init_grpc_channel(target)
    try:
        NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=TOKEN_TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            sent = is_token_auth_enabled() and _get_authentication_metadata_tuple()
            what = f"refuses this process's token ({error.details()})" if sent else "asks for a token and this process sends none"
            raise StudyError(f"--address {address}: the cluster {what}; give the cluster's token in {TOKEN_PLACES}") from None
        raise StudyError(f"--address {address}: no Ray head answers at {target} ({error.code().name.lower()})") from None
    finally:
        channel.close()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
