"""Scores of a model between two steps of its instruction tuning: held-out rows of the mixture, and the study's tasks zero-shot.

In: a run, after each step. Out: points of its curves, lines of its log, numbers for whoever draws. A run that is scored ends with
the bits of one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from xlmr_sweep.study.recipes import InstructSpec
from xlmr_sweep.training.chat_batches import ChatBatches
from xlmr_sweep.training.held_out import num_seen, score_held_out
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.run_progress import Progress
from xlmr_sweep.training.run_report import Listener, Numbers
from xlmr_sweep.training.zero_shot import AskedTask, score_zero_shot


class MidRunScores:
    """Scores what a study asks for, as often as it asks.

    Args:
        recipe: says how often.
        batches: with the held-out rows.
        asked: the tasks to score; none where the study does not ask for it.
        precision: `bf16` or `fp32`.
        listeners: take the scores.
        log: takes a line.

    Attributes:
        num_seen: how many of the held-out rows are equal to rows that are trained on. Known on rank 0, from the first score on.
    """

    def __init__(
        self,
        recipe: InstructSpec,
        batches: ChatBatches,
        asked: Sequence[AskedTask],
        precision: str,
        listeners: Sequence[Listener],
        log: Callable[[str], None],
    ) -> None:
        self._recipe, self._batches, self._asked, self._precision = recipe, batches, asked, precision
        self._listeners, self._log = listeners, log
        self.num_seen: int | None = None

    def after_step(self, run: Run) -> None:
        """Scores what is due. All ranks call it together."""
        step, is_last = run.progress.step, run.progress.step == run.source.num_steps
        if self._batches.order.num_held_out and (is_last or step % self._recipe.held_out_every == 0):
            self._score_held_out(run)
        if self._asked and (is_last or step % self._recipe.zero_shot_every == 0):
            self._score_tasks(run)

    def note(self, progress: Progress) -> str:
        """Returns the last scores of each kind, for the terminal."""
        parts = []
        if progress.held_out:
            step, loss, accuracy = progress.held_out[-1]
            parts.append(f"held-out at step {step}: loss {loss:.3f}, accuracy {accuracy:.3f}{self._seen()}")
        if progress.zero_shot:
            step, scores = progress.zero_shot[-1]
            parts.append(f"zero-shot at step {step}: {_in_one_line(scores)}")
        return "; ".join(parts)

    def _score_held_out(self, run: Run) -> None:
        with run.waiting_for("scoring"):
            rows = self._batches.held_out(run.world.rank, run.world.size)
            score = score_held_out(_root(run), rows, run.world, self._precision, run.settings.max_tokens)
            if run.world.rank == 0 and self.num_seen is None:
                self.num_seen = num_seen(self._batches.chats, self._batches.order)
        step, losses = run.progress.step, {"loss_inputs": score.on_inputs, "loss_targets": score.on_targets}
        run.progress.held_out.append((step, score.loss, score.accuracy))
        parts = ", ".join(f"{name.removeprefix('loss_')} {loss:.4f}" for name, loss in losses.items() if loss is not None)
        told = f"loss {score.loss:.4f} ({parts}), accuracy of masked targets {score.accuracy:.4f}{self._seen()}"
        self._log(f"step {step}: held-out rows: {told}")
        numbers = {"loss": score.loss, **losses, "accuracy": score.accuracy}
        self._tell(step, {f"held_out_{name}": number for name, number in numbers.items()})

    def _seen(self) -> str:
        """Says how many of the held-out rows are no news to the model."""
        if not self.num_seen:
            return ""
        return f"; {self.num_seen} of {self._batches.order.num_held_out} are equal to rows that are trained on"

    def _score_tasks(self, run: Run) -> None:
        with run.waiting_for("scoring"):
            scores = score_zero_shot(_root(run), self._asked, run.world, self._precision, run.settings.max_tokens)
        step = run.progress.step
        run.progress.zero_shot.append((step, scores))
        self._log(f"step {step}: zero-shot: {_in_one_line(scores)}")
        self._tell(step, {f"zero_shot/{name}": score for name, score in scores.items()})

    def _tell(self, step: int, numbers: Numbers) -> None:
        for listener in self._listeners:
            listener(step, numbers)


def _root(run: Run) -> MaskedLMLoss:
    return cast(MaskedLMLoss, run.root)


def _in_one_line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
