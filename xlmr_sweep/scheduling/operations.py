"""How many floating-point operations a trial and an instruction job take. Pure: neither torch nor ray.

Only ratios matter: the counts scale a measured time from one model, task or size to another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.study.spec import Study


class Operations:
    """Counts the operations of a study's trials and jobs.

    Args:
        study: the study.
        shapes: known shapes of its models.
        num_rows: known numbers of rows in the tasks' validation splits.
        mixture_rows: rows of the instruction data, if they are prepared.
    """

    def __init__(
        self, study: Study, shapes: Mapping[str, Architecture], num_rows: Mapping[str, int], mixture_rows: int | None
    ) -> None:
        self._study, self._shapes, self._mixture_rows = study, dict(shapes), mixture_rows
        self._num_rows = {task.name: num_rows.get(task.name) or task.num_validation or 0 for task in study.tasks}
        self._means: dict[str, float] = {}
        """Mean operations of a model's trials in this study."""

    def trial(self, model: str, task: str, size: int) -> float:
        """Returns the operations of one trial in the layers of its encoder; 0 if the model's shape is not known.

        The head computes only the label words, which is little beside the layers. Lengths of texts are not known before they are
        read, so each text counts with the length limit. So tasks differ only by their rows.
        """
        shape = self._shapes.get(model)
        if shape is None:
            return 0.0
        spec = self._study.finetune
        length = min(spec.max_length, shape.positions - 2)
        tokens = (3.0 * spec.steps * min(spec.batch_size, size) + self._num_rows[task]) * length
        return tokens * shape.encoder_flops_per_token(length)

    def relative(self, model: str, task: str, size: int) -> float:
        """Returns a trial's operations divided by the mean over its model's trials in this study."""
        if model not in self._means:
            # Zero-shot trials take almost no time, and the paper has none.
            tasks, sizes = [task.name for task in self._study.tasks], [size for size in self._study.sizes if size] or [0]
            self._means[model] = sum(self.trial(model, t, s) for t in tasks for s in sizes) / (len(tasks) * len(sizes))
        mean = self._means[model]
        return self.trial(model, task, size) / mean if mean else 1.0

    def job(self, model: str) -> float:
        """Returns the operations of an instruction job at full length; 0 if the shape or the number of rows is not known."""
        shape, recipe, rows = self._shapes.get(self._study.model(model).name), self._study.of_job(model).instruct, self.job_rows()
        if shape is None or math.isinf(rows):
            return 0.0
        length = min(recipe.max_length, shape.positions - 2)
        return 3.0 * rows * length * shape.encoder_flops_per_token(length)

    def job_rows(self, assumed: int | None = None) -> float:
        """Returns the rows that an instruction job trains on; infinity if that is not known.

        Args:
            assumed: rows of the instruction data, if they are not prepared.
        """
        recipe = self._study.instruct
        prepared = assumed if self._mixture_rows is None else self._mixture_rows
        rows = math.inf if prepared is None else prepared * recipe.epochs
        return rows if recipe.max_steps is None else min(rows, recipe.max_steps * recipe.global_batch_size)

    def num_rows(self, task: str) -> int:
        """Returns the rows of a task's evaluation set; 0 if that is not known."""
        return self._num_rows[task]
