"""The small files of a study's models, configuration and tokenizer, wherever they are at hand.

In: a study, its storage, one of its models. Out: the text of a file; nothing is fetched. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from xlmr_sweep.modeling.hub_files import read_small_file
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.storage.artifacts import MODELS, pretrained_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.relocated import folder_of
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study


def reader_of(study: Study, storage: Storage, model: ModelSpec) -> Callable[[str], str]:
    """Returns what reads a small file of a model by its name.

    It lies in a folder, in the storage (of a demo model), or in this node's cache of the hub. The reader raises an OSError for a
    file that is not there.
    """
    if model.demo is None:
        return partial(read_small_file, base_source(storage, study, model))
    made = folder_of(storage, MODELS, model.name, partial(pretrained_folder, study, model))
    return lambda name: storage.read(f"{made}/{name}").decode()
