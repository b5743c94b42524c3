"""How many parameters a model has, and how many of them are its vocabulary's. In: a `ModelSource`. Out: counts.

Nothing is read but the configuration: the model is built on the "meta" device, so every family is counted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xlmr_sweep.modeling.loading import empty_masked_lm
from xlmr_sweep.modeling.source import ModelSource


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a masked-LM model, tied weights counted once."""

    total: int

    vocabulary: int
    """Those with a row per token: word embeddings, the output projection where it is another matrix, and its bias."""

    @property
    def body(self) -> int:
        """Those that do not grow with the vocabulary: what a trial with a compact vocabulary costs."""
        return self.total - self.vocabulary


@lru_cache(maxsize=16)
def count_parameters(source: ModelSource) -> ParameterCount:
    """Returns the number of parameters of a source's masked-LM model.

    Raises:
        StudyError: if its configuration fits no such model.
    """
    model: Any = empty_masked_lm(source)
    output = model.get_output_embeddings()
    rows = {id(p) for p in model.get_input_embeddings().parameters()}
    rows |= set() if output is None else {id(p) for p in output.parameters()}
    sizes = {id(p): p.numel() for p in model.parameters()}
    return ParameterCount(sum(sizes.values()), sum(size for key, size in sizes.items() if key in rows))
