"""The study's tasks, asked of a model while it is instruction-tuned: what a zero-shot trial with its weights would score.

In: a study and its tasks' prepared examples; a loss module, whole or spread over ranks. Out: a score for each task and prompt.
Prompts, label words, calibration and metric are those of trials with training size 0. No random number is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.data.encoding import Batch, Encoded, encode_task
from xlmr_sweep.data.examples import load_task
from xlmr_sweep.data.tokenised import CONTENT_FREE, check_rows
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.sharded import reshard
from xlmr_sweep.storage.artifacts import manifest_of, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.task_metrics import score
from xlmr_sweep.study.tasks import TaskSpec, rows_without_content
from xlmr_sweep.training.evaluation import evaluated
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.scoring import calibrated


@dataclass(frozen=True)
class AskedTask:
    """The evaluation set of a task in one of its prompts, tokenised."""

    name: str
    """Of the task, and behind a `/` of the prompt where it has several."""
    task: TaskSpec
    examples: list[Encoded]
    content_free: list[Encoded]
    """Prompts without content; none where the study does not calibrate."""
    label_ids: Tensor
    """(num_labels,) tokens of the label words."""
    max_tokens: int
    """Of an evaluation batch of a trial."""

    @property
    def labels(self) -> list[int]:
        """The right answers."""
        return [example.label for example in self.examples]


def asked_tasks(
    study: Study, storage: Storage, tokenizer: Any, vocab_size: int, world: World
) -> tuple[list[AskedTask], list[str]]:
    """Returns the study's tasks in all their prompts, and the names of those without examples. All ranks call it together.

    Args:
        study: under the variant of the job.
        storage: with the tasks' examples. A command prepares those of the tasks that it was asked for.
        tokenizer: the model's.
        vocab_size: rows of the model's embeddings.
        world: the ranks; rank 0 says which tasks have examples, because a file may come between two looks.

    Raises:
        StudyError: if a prompt cannot be asked of this model, naming the task.
    """
    wanted = {
        f"{task.name}/{prompt}" if prompt else task.name: study.at("", prompt).task(task.name)
        for task in study.tasks
        for prompt in study.prompt_names(task.name)
    }
    there = [name for name, task in wanted.items() if world.rank == 0 and storage.exists(manifest_of(task_folder(study, task)))]
    there = json.loads(world.send_text(json.dumps(there)))
    asked = [_asked(name, wanted[name], study, storage, tokenizer, vocab_size) for name in there]
    return asked, [name for name in wanted if name not in there]


def _asked(name: str, task: TaskSpec, study: Study, storage: Storage, tokenizer: Any, vocab_size: int) -> AskedTask:
    spec = study.finetune
    rows_of = {"validation": load_task(study, task, storage).validation}
    if study.zero_shot.calibrate:
        rows_of[CONTENT_FREE] = rows_without_content(task, study.zero_shot.content_free)
    pools = {split: encode_task(tokenizer, task, rows, spec.max_length, prompted=True) for split, rows in rows_of.items()}
    labels = label_token_ids(tokenizer, task)
    check_rows(task, pools, labels, vocab_size, tokenizer)
    return AskedTask(name, task, pools["validation"], pools.get(CONTENT_FREE, []), torch.tensor(labels), spec.eval_tokens)


def score_zero_shot(
    root: MaskedLMLoss, asked: Sequence[AskedTask], world: World, precision: str, max_tokens: int
) -> dict[str, float]:
    """Returns the score of each task by its name. All ranks call it together.

    Args:
        root: in training mode, to which it returns.
        asked: the tasks, the same on all ranks.
        world: the ranks.
        precision: `bf16` or `fp32`.
        max_tokens: tokens of one pass on one rank.
    """
    scores = {}
    for one in asked:
        logits = zero_shot_logits(root, one, world, precision, max_tokens)
        scores[one.name] = score(one.task, one.labels, logits.argmax(dim=1).tolist())["score"]
    root.train()
    if world.size > 1:
        reshard(root)
    return scores


def zero_shot_logits(root: MaskedLMLoss, asked: AskedTask, world: World, precision: str, max_tokens: int) -> Tensor:
    """Returns the logits (E, num_labels) of a task's label words, calibrated where the study does so; arguments as above.

    Leaves the module in evaluation mode.
    """
    label_ids = asked.label_ids.to(world.device)

    def logits_of(batch: Batch) -> Tensor:
        return root.word_logits(batch.tokens, batch.mask_at, batch.counts, label_ids)

    def answers(examples: Sequence[Encoded]) -> Tensor:
        return evaluated(root, examples, min(asked.max_tokens, max_tokens), precision, world, logits_of)

    logits = answers(asked.examples)
    return calibrated(logits, answers(asked.content_free)) if asked.content_free else logits
