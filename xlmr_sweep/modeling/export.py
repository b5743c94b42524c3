"""Trained weights as a folder that transformers loads, and the hash that names them.

In: a configuration, weights by name, a tokenizer. Out: a folder, and later its copy in the storage.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.storage.artifacts import manifest_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressFile


def config_text(model: Any) -> str:
    """Returns a model's configuration as JSON, enough to build the same shape elsewhere."""
    return json.dumps(model.config.to_dict())


def empty_model(config: str, kind: Any = AutoModelForMaskedLM) -> Any:
    """Returns a model of that configuration and kind of head without memory for its weights (on the "meta" device)."""
    values = json.loads(config)
    family = values.pop("model_type")
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(family, **values), trust_remote_code=False)


def write_weights(
    config: str, weights: Mapping[str, Tensor], tokenizer: Any, folder: Path, kind: Any = AutoModelForMaskedLM
) -> str:
    """Writes configuration, weights (safetensors, in several files where large) and tokenizer.

    Args:
        config: result of `config_text`.
        weights: every parameter by name, tied ones once, in host memory.
        tokenizer: saved beside the weights.
        folder: target folder. It is made if it is missing.
        kind: transformers' class of models that the folder then loads as.

    Returns:
        The weights' hash.
    """
    model = empty_model(config, kind)
    model.load_state_dict(dict(weights), strict=False, assign=True)
    model.tie_weights()
    unset = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if unset:
        raise ValueError(f"weights lack {', '.join(unset[:3])}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return weights_hash(folder)


def publish(storage: Storage, name: str, folder: Path, manifest: Mapping[str, Any], num_steps: int) -> None:
    """Puts a written folder into the storage. The manifest goes last, so that a folder with a manifest is whole.

    Args:
        storage: the study's folder.
        name: name of the weights' folder in the storage.
        folder: result of `write_weights`.
        manifest: what the manifest says about the weights.
        num_steps: number of steps of the run. All are shown as done.
    """
    storage.upload(folder, name)
    ProgressFile(storage, name).update(num_steps, num_steps)
    storage.write_json(manifest_of(name), dict(manifest))


def weights_hash(folder: Path) -> str:
    """Returns the SHA-256 over names, types, shapes and bytes of a folder's safetensors, however they are split in files."""
    where: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path)
    digest = hashlib.sha256()
    for name, path in sorted(where.items()):
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name).contiguous()
        head = f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode()
        digest.update(struct.pack("<Q", len(head)) + head)
        digest.update(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
