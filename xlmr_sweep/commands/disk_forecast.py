"""How much a storage grows by what is left of a plan. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xlmr_sweep.modeling.architecture import shape_of
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

TRIAL_BYTES = 27_000
"""Record, log and Tune's folder of one trial: mean of the demo's 360."""

PREDICTION_BYTES = 34
"""One evaluation example in a trial's predictions: mean of the demo's."""

Disk = Mapping[str, int | None]
"""Bytes that will be added to the storage, by what they are; None where that is not known."""


def disk_growth(study: Study, storage: Storage, left: Sequence[Trial], to_instruct: Sequence[str]) -> Disk:
    """Returns how much the storage grows.

    Args:
        study: the study.
        storage: its folder.
        left: the trials without a record.
        to_instruct: the models whose instruction-tuned weights are missing.
    """
    rows = sum(study.task(trial.task).num_validation or 0 for trial in left)
    found: dict[str, int | None] = {"records, predictions and logs": TRIAL_BYTES * len(left) + PREDICTION_BYTES * rows}
    models = {trial.model for trial in left} | set(to_instruct)
    shapes = {name: shape_of(study, storage, study.model(name)) for name in models}
    sizes = {name: None if shape is None else 4 * shape.num_parameters for name, shape in shapes.items()}
    if study.finetune.save_weights:
        found["trained weights"] = _sum_if_known([sizes[trial.model] for trial in left])
    if to_instruct:
        weights = _sum_if_known([sizes[name] for name in to_instruct])
        found["instruction-tuned weights"] = weights
        # Weights and the two moments of AdamW in fp32. An old checkpoint goes only once the new one is written.
        number = study.instruct.checkpoints_kept + 1
        found["checkpoints while their jobs run"] = None if weights is None else number * 3 * weights
    if any(not storage.exists(manifest_of(mixture_folder(study.of_job(name)))) for name in to_instruct):
        found["instruction data"] = None
    return found


def _sum_if_known(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
