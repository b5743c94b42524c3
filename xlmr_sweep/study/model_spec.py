"""The declaration of one encoder: where its weights come from, and what its trials and its instruction job need."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from xlmr_sweep.study.canonical import Declared

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What a short name may be made of: it becomes part of names of files, of which a disk takes 255 bytes."""

AUTO: Final = "auto"


def _fraction(value: Any) -> Any:
    """Reads a share as a user writes it: 2, 0.25 or "1/4"."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except ZeroDivisionError:
        raise ValueError(f"{value!r} divides by zero") from None
    except ValueError:
        raise ValueError(f"{value!r} is no number; give one as 2, 0.25 or 1/4") from None


def _gpu_share(value: Any) -> Any:
    """Reads GPUs of a trial: `auto`, 1/n, or a whole number."""
    if value == AUTO:
        return value
    value = _fraction(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{value!r} is neither 1/n, nor a whole number above 0, nor auto")
    return float(value)


Share = Annotated[float, BeforeValidator(_fraction), Field(gt=0)]


class ModelSpec(Declared):
    """One encoder: where its weights come from, and what it needs to run. Exactly one of hub, folder and demo is given."""

    name: str = Field(pattern=NAME)
    """Short name, as in the column `model`."""

    hub: str | None = None
    """Hub id of any encoder that `AutoModelForMaskedLM` loads."""

    folder: Path | None = None
    """Folder that transformers loads; relative paths are relative to the study file."""

    demo: str | None = None
    """Name of one of the offline demo's models, which the study pre-trains itself."""

    revision: str = "main"
    """Branch, tag or commit of the hub id; a commit makes the study reproducible for ever."""

    new_head: bool = False
    """Accepts a model without a masked-LM head: a seeded one is made, and is part of the identity."""

    instructed_folder: Path | None = None
    """Weights that were instruction-tuned elsewhere. No instruction job then runs for this model."""

    gpus: Annotated[float | Literal["auto"], BeforeValidator(_gpu_share)] = 1.0
    """Runtime. GPUs of one fine-tuning trial: 1/n to share one, a whole number, or `auto`. With `auto` the model's first trial
    runs alone on a whole GPU, and measures which 1/n is enough. Without GPUs only `auto` has an effect: the memory that the first
    trial needs then decides how many CPUs a trial holds."""

    cpus: Share = 1.0
    """Runtime. CPUs of one fine-tuning trial and of each of its ranks."""

    instruct_ranks: int = Field(default=1, ge=1)
    """Runtime. Ranks of the instruction job, each with one GPU where there are GPUs."""

    instruct_micro_batch: int = Field(default=16, ge=1)
    """Runtime. A rank puts at most this many times `instruct.max_length` padded tokens through the model at once, so more short
    sequences fit than long ones. The gradients of the rest are accumulated."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("hub", "folder", "demo") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"model {self.name}: give exactly one of hub, folder and demo, not {given or 'none'}")
        if self.gpus == AUTO:
            return self
        if self.gpus < 1 and abs(round(1 / self.gpus) * self.gpus - 1) > 1e-6:
            raise ValueError(f"model {self.name}: gpus {self.gpus} is not 1/n of a GPU, so trials cannot fill one exactly")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"model {self.name}: gpus {self.gpus} is neither 1/n nor a whole number")
        return self

    @property
    def num_ranks(self) -> int:
        """Processes of one fine-tuning trial on GPUs: one per whole GPU, or one if a GPU is shared."""
        return 1 if self.gpus == AUTO else max(1, int(self.gpus))
