"""What a run learns from trials that finish: how long they take, and how much of a GPU a model needs if that is not known."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.scheduling.shares import ShareSearch, Turns
from xlmr_sweep.scheduling.widths import (
    Measured,
    at_least,
    keep_measured,
    keep_share,
    most_on_gpu,
    read_measured,
    read_share,
    width_for,
)
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_spec import AUTO
from xlmr_sweep.study.spec import Study


class Learning(tune.Callback):  # type: ignore[misc]
    """Tune's callback that tells the cost model how long trials took, and the admission what a model's trials need.

    Args:
        study: the study.
        storage: its folder, where what is learned of a model is kept.
        admission: what waits and what is live.
        say: called with a line when the number of trials per GPU was chosen.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        study: Study,
        storage: Storage,
        admission: Admission,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._storage, self._admission, self._say, self._clock = study, storage, admission, say, clock
        self._turns = Turns()
        # What was measured of a model whose number of trials on a GPU is still searched for.
        self._measured: dict[str, Measured] = {}
        self._searches: dict[str, ShareSearch] = {}
        for model in study.models if admission.has_gpus else ():
            measured = read_measured(storage, model.name) if model.gpus == AUTO else None
            if measured is not None and measured.on_gpu and read_share(storage, model.name) is None:
                self._search(model.name, measured)

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Learning:
        return self

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Notes on which GPU a trial runs."""
        attempt = self._admission.live[trial.trial_id]
        bundle = attempt.allocation.bundles[0]
        if bundle.gpu_shares:
            self._turns.started(trial.trial_id, attempt.model, (bundle.node_id, bundle.gpu_shares[0][0]), self._clock())

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Notes that the trial has left its GPU."""
        self._turns.ended(trial.trial_id, self._clock())

    def on_trial_complete(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Learns from a row with a score."""
        row = trial.last_result
        width = Width(**trial.config["width"])
        share = max(1, round(1 / width.gpus)) if width.gpus else 1
        process: Hashable = (row["hostname"], row["pid"]) if "score" in row and "pid" in row else None
        seconds = self._turns.ended(trial.trial_id, self._clock(), process, share)
        if "score" not in row:
            return
        self._admission.cost.observe_row(row)
        model = row["model"]
        if model in self._admission.probing:
            self._admission.set_width(model, self._probed(row, width))
        if model in self._searches:
            like = (row["task"], min(row["train_size"], self._study.finetune.batch_size))
            self._searches[model].observe(share, process, like, seconds)
            self._go_on(model)

    def _probed(self, row: Mapping[str, Any], tried: Width) -> Width:
        """Returns the width of the model's other trials: the width of this one if it measured nothing."""
        # A trial without training says nothing of what training needs.
        measured = Measured.of_row(row) if row["train_size"] else None
        if measured is None or tried.total_gpus > 1:
            return tried
        keep_measured(self._storage, row["model"], measured)
        if measured.on_gpu:
            self._search(row["model"], measured)
        nodes = self._admission.free_resources.nodes
        # If all nodes are gone by now, the next run works the share out.
        return width_for(measured, self._study.model(row["model"]), nodes) if nodes else tried

    def _search(self, model: str, measured: Measured) -> None:
        self._measured[model], self._searches[model] = measured, ShareSearch()

    def _go_on(self, model: str) -> None:
        """Gives the model's waiting trials another share, if it is time to."""
        nodes = [node for node in self._admission.free_resources.nodes if node.gpus]
        if not nodes:
            return
        search, spec = self._searches[model], self._study.model(model)
        most = most_on_gpu(self._measured[model], spec, nodes)
        # Trials that ran out of memory have shown that fewer fit than were expected.
        least = at_least(Width(spec.cpus, 1 / most), self._storage, model, nodes)
        most = max(1, round(1 / least.gpus)) if least.num_bundles == 1 else 1
        if not search.step(most, self._admission.num_waiting_of(model) / sum(node.gpus for node in nodes)):
            return
        width = at_least(Width(spec.cpus, 1 / search.share), self._storage, model, nodes)
        self._admission.set_width(model, width)
        if search.is_over:
            del self._searches[model]
            keep_share(self._storage, model, search)
            self._say(search.in_words(model))
