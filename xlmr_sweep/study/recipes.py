"""The declaration of both trainings: instruction tuning, and fine-tuning of a trial.

Fields marked "Runtime" cannot change a score and are not part of a trial's identity. All others are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from xlmr_sweep.study.canonical import Declared

INSTRUCT_RUNTIME = {"checkpoint_every", "checkpoints_kept", "held_out_every", "stop_at_spike", "zero_shot_every"}
"""Fields of `InstructSpec` that are no part of a recipe's identity."""


class InstructSpec(Declared):
    """How an encoder is instruction-tuned (paper, sections 3.1 and 4.3)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Paper, section 4.3."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Paper, section 4.3."""

    global_batch_size: int = Field(default=128, ge=1)
    """Sequences a step over all ranks (paper, section 4.3), reached by accumulation."""

    epochs: float = Field(default=1.0, gt=0)
    """Paper, section 4.3."""

    max_steps: int | None = Field(default=None, ge=1)
    """Ends earlier than the epochs say."""

    mask_rate: float = Field(default=0.15, ge=0, lt=1)
    """Share of the user part's tokens that are masked (paper, section 3.1); the target is always masked whole."""

    loss_on: Literal["both", "inputs", "targets"] = "both"
    """The masked tokens that the loss counts: of the user part, of the target, or both (paper, section 3.1). The masks are the
    same. Part of the identity if not `both`."""

    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps with rising learning rate. Paper silent; RoBERTa's fine-tuning (Liu et al. 2019)."""

    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up. Paper silent; linear decay as in Liu et al. 2019."""

    clip: float = Field(default=1.0, gt=0)
    """Greatest gradient norm. Paper silent; Mosbach et al. 2021."""

    max_length: int = Field(default=512, ge=8)
    """Tokens a sequence; XLM-R's limit."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic over fp32 master weights; `auto` is bf16 where the hardware has it. What ran is recorded."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Order of the rows, masks and dropout."""

    threads: int = Field(default=1, ge=1)
    """CPU threads a rank; part of the identity because it changes rounding."""

    checkpoint_every: int = Field(default=1000, ge=1)
    """Runtime. Steps between checkpoints."""

    checkpoints_kept: int = Field(default=1, ge=1)
    """Runtime. How many of a job's last checkpoints stay until it is done. While one is written, there is one more."""

    held_out: int = Field(default=0, ge=0)
    """Rows of the mixture that are not trained on and are scored instead: loss, and accuracy of masked targets. Rows equal to
    them are trained on, and the job says how many, unless `instructions.drop_duplicates` leaves one of each. Part of the identity
    if not 0."""

    held_out_every: int = Field(default=1000, ge=1)
    """Runtime. Steps between two scores of the held-out rows; they are scored after the last step too."""

    zero_shot_every: int = Field(default=0, ge=0)
    """Runtime. Steps between two zero-shot scores of the study's tasks; they are scored after the last step too. 0 is never."""

    stop_at_spike: bool = True
    """Runtime. Ends the job where the loss stays far above what was usual before, and keeps the last checkpoint before that. With
    `false` only a loss that is not finite ends it."""

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.loss_on == "inputs" and self.mask_rate == 0:
            raise ValueError("loss_on is inputs, but with mask_rate 0 no token of them is masked")
        return self


class ZeroShotSpec(Declared):
    """How zero-shot trials (training size 0) are scored."""

    calibrate: bool = False
    """Divides the probabilities of the label words by those that the prompt gives without content (Zhao et al. 2021, "Calibrate
    Before Use"). `score` is then the calibrated one, and `score_uncalibrated` the other."""

    content_free: tuple[str, ...] = Field(default=("N/A", ""), min_length=1)
    """Texts without content. Each fills all fields of the prompt, and the mean over them counts. Zhao et al. also use the mask,
    but here no text may hold one."""


ZERO_SHOT_FIELDS = {"max_length", "precision", "threads", "eval_tokens"}
"""Fields of `FinetuneSpec` that can change the score of a zero-shot trial."""

FINETUNE_RUNTIME = {"gpu_graphs", "save_weights"}
"""Fields of `FinetuneSpec` that are no part of a trial's identity."""


class FinetuneSpec(Declared):
    """How a trial is fine-tuned (paper, sections 3.2 and 4.3; facts the paper leaves open carry their source)."""

    steps: int = Field(default=320, ge=1)
    """Paper: more than 300."""

    batch_size: int = Field(default=16, ge=1)
    """At most this and the training size. Paper silent; Scao and Rush 2021."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Paper, section 4.3."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Paper silent; Mosbach et al. 2021."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with rising learning rate, then linear decay to 0. Paper silent; Mosbach et al. 2021."""

    clip: float = Field(default=1.0, gt=0)
    """Greatest gradient norm. Paper silent; Mosbach et al. 2021."""

    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Replaces every dropout probability of the model; None keeps the model's own."""

    max_length: int = Field(default=256, ge=8)
    """Tokens an input. Paper silent; Scao and Rush 2021."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic over fp32 master weights; `auto` is bf16 where the hardware has it. What ran is recorded."""

    threads: int = Field(default=1, ge=1)
    """CPU threads a rank; part of the identity because it changes rounding."""

    eval_tokens: int = Field(default=16384, ge=1)
    """Padded tokens of one evaluation batch; part of the identity because it changes rounding."""

    # YAML reads a bare `off` as false.
    gpu_graphs: Annotated[Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)] = "auto"
    """Runtime. Captures the step of a trial on one GPU as a CUDA graph, in a model and precision that can (`auto`), or never."""

    save_weights: bool = False
    """Runtime. Keeps each trial's trained weights, with the whole vocabulary, under `weights/<trial_id>/` as a folder that
    transformers loads. As large as the model, for every trial; a trial that has a record already does not run again for it."""

    def padded_eval_tokens(self, *, is_zero_shot: bool) -> int:
        """Returns the tokens of an evaluation batch where logits of the whole vocabulary lie in memory: no more than in a step.

        The batch size is no part of a zero-shot trial's identity, and it would change rounding. So that has the default's rows.
        """
        rows: int = type(self).model_fields["batch_size"].default if is_zero_shot else self.batch_size
        return min(self.eval_tokens, rows * self.max_length)

    def identity(self, *, is_zero_shot: bool = False) -> dict[str, Any]:
        """Returns the fields that can change the score of a trial, or of a zero-shot trial."""
        if is_zero_shot:
            return self.model_dump(mode="json", include=ZERO_SHOT_FIELDS)
        return self.model_dump(mode="json", exclude=FINETUNE_RUNTIME)
