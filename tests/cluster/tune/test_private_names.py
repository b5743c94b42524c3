"""The private names of Ray Tune and Train that the package uses. An upgrade of Ray fails here first, and says which is gone."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import xlmr_sweep.cluster.instruct_job as instruct_job
import xlmr_sweep.cluster.tune as tune_package
from xlmr_sweep.cluster.tune import controller, queue, sweep, tune_loop, warm_processes

NAMES = {
    "ray.tune.tune": ["TuneController", "_setup_signal_catching"],
    "ray.tune.execution.tune_controller": ["_get_trainable_kwargs"],
    "ray.tune.execution.tune_controller.TuneController": [
        "_actor_cache",
        "_actor_manager",
        "_class_cache",
        "_insufficient_resources_manager",
        "_live_trials",
        "_maybe_add_actors",
        "_maybe_update_trial_queue",
        "_on_trial_reset",
        "_on_training_result",
        "_pending_trials",
        "_pending_trials_list",
        "_resetting_trials",
        "_schedule_trial_actor",
        "_schedule_trial_reset",
        "_schedule_trial_task",
        "_schedule_trial_train",
        "_search_alg",
        "_staged_trials",
        "_started_actors",
        "_stopped_trials",
        "_failed_trials",
        "_trial_metadata",
        "_trial_task_failure",
        "_trial_to_actor",
        "_trials",
        "_trials_to_cache",
        "add_trial",
        "on_step_end",
        "stop_trial",
    ],
    "ray.tune.execution.tune_controller.TrialRunnerWrapper": ["_tune_controller"],
    "ray.tune.execution.tune_controller.RayActorManager": [
        "_actor_task_failed",
        "_live_actors_to_ray_actors_resources",
        "num_total_actors",
    ],
    "ray.tune.experiment.Trial": ["get_trainable_cls", "handle_error", "run_metadata", "set_ray_actor", "temporary_state"],
    "ray.tune.experiment.trial._TrainingRunMetadata": ["invalidate_cache", "num_failures"],
    "ray.tune.experiment.trial._TemporaryTrialState": ["ray_actor"],
    "ray.tune.search.basic_variant.BasicVariantGenerator": ["add_configurations", "next_trial", "total_samples"],
    "ray.tune.logger.JsonLoggerCallback": ["_trial_configs"],
    "ray.train.torch.TorchTrainer": ["_create_default_callbacks"],
    "ray.train.v2._internal.callbacks.datasets": ["DatasetsCallback"],
    "ray.train.v2._internal.callbacks.placement_group_callback": ["PlacementGroupCleanerCallback"],
    "ray.train.v2._internal.execution.callback": ["WorkerGroupCallback"],
    "ray.train.v2._internal.execution.callback.WorkerGroupCallback": ["after_worker_group_start"],
    "ray.train.v2._internal.execution.worker_group.worker_group.WorkerGroup": ["get_worker_group_state"],
    "ray._private.worker": ["print_to_stdstream"],
}
"""By module or class. Public names are here too where Ray does not document them for use."""

STAND_INS = {
    "ray.tune.utils.object_cache._ObjectCache": warm_processes.WarmProcesses,
    "ray.tune.execution.class_cache._ActorClassCache": warm_processes.OneActorClass,
    "ray.tune.execution.insufficient_resources_manager._InsufficientResourcesManager": tune_loop.NoWarnings,
}
"""Classes of Tune's, and what stands in for each."""

MODULES = [*(Path(path) for path in sorted(Path(next(iter(tune_package.__path__))).glob("*.py"))), Path(instruct_job.__file__)]


def found(path: str) -> Any:
    """Returns a module, or a class of one."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


@cache
def assigned(owner: type) -> set[str]:
    """Returns the names that a class and its bases assign to their objects."""
    names: set[str] = set()
    for base in owner.__mro__:
        if not base.__module__.startswith("ray"):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def has(owner: Any, name: str) -> bool:
    return hasattr(owner, name) or (not isinstance(owner, ModuleType) and name in assigned(owner))


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in NAMES.items() for name in names])
def test_ray_has_every_private_name_that_is_used(owner: str, name: str) -> None:
    assert has(found(owner), name), f"{owner} has no {name} any more"


@pytest.mark.parametrize("replaced", STAND_INS)
def test_a_stand_in_has_what_tunes_loop_calls(replaced: str) -> None:
    loop = inspect.getsource(found("ray.tune.execution.tune_controller"))
    public = [name for name in vars(found(replaced)) if not name.startswith("_")]
    called = [name for name in public if f".{name}" in loop]
    assert called
    assert [name for name in called if not hasattr(STAND_INS[replaced], name)] == []


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_private_name_is_used_that_is_not_listed_here() -> None:
    listed = {name for names in NAMES.values() for name in names} | {part for owner in NAMES for part in owner.split(".")}
    unlisted = set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {part for node in nodes if isinstance(node, ast.ImportFrom) for part in (node.module or "").split(".")}
        unlisted |= {f"{path.name}: {name}" for name in used - own - listed if private(name)}
    assert unlisted == set()


@pytest.mark.parametrize("module", [controller, queue, sweep, tune_loop, instruct_job])
def test_no_private_name_of_a_base_class_is_replaced_that_is_not_listed_here(module: ModuleType) -> None:
    listed = {name for names in NAMES.values() for name in names}
    for own in vars(module).values():
        if not inspect.isclass(own) or own.__module__ != module.__name__:
            continue
        of_ray = next((base for base in own.__mro__ if base.__module__.startswith("ray")), None)
        if of_ray is None:
            continue
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(own)))))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
        names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert {name for name in names if private(name) and has(of_ray, name)} <= listed, own.__name__
