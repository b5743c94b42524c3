"""The declaration of the cluster: what a dry run assumes, and the limits of a run."""

from __future__ import annotations

from pydantic import Field

from xlmr_sweep.study.canonical import Declared


class ClusterSpec(Declared):
    """Runtime. What the study expects of the cluster, and its limits. Nothing here changes a score."""

    gpus: int = Field(default=0, ge=0)
    """GPUs that a dry run assumes. A run uses what the cluster has; a Ray of the command's own has none where this is 0."""

    cpus: int | None = Field(default=None, ge=1)
    """CPUs of a Ray that the command starts itself. Default: the machine's, or what an instruction job needs if that is more."""

    trial_timeout_s: float = Field(default=6 * 3600, gt=0)
    """A trial that takes longer is killed. It runs again at most `max_hang_retries` times."""

    trial_stall_s: float = Field(default=1800, gt=0)
    """A trial that finishes no step for this long is killed, and runs again in the same way. Evaluation counts as a step. The
    first step has at least ten minutes, because imports, data and weights come before it."""

    max_hang_retries: int = Field(default=1, ge=0)
    """How often a trial starts again after it was killed for taking too long or making no progress."""

    max_worker_retries: int = Field(default=2, ge=0)
    """How often a trial starts again after its worker or node died. Preemption does not count."""

    max_node_failures: int = Field(default=3, ge=1)
    """After this many trials in a row died on a node, nothing more starts there, as long as there is another node."""

    node_patience_s: float = Field(default=600, ge=0)
    """How long trials that fit on no node any more wait for a node to come back. Then this run leaves them out."""

    max_same_failures: int = Field(default=5, ge=1)
    """After this many trials in a row failed with the same traceback, their model or task is stopped. The rest goes on."""

    storage_patience_s: float = Field(default=600, ge=0)
    """How long writes that fail (storage full or read-only) are tried again before the trial fails."""

    end_soon_s: float = Field(default=150, ge=30)
    """Seconds that a command takes at most to end after SIGUSR1. Trials that end before go on; nothing new starts."""
