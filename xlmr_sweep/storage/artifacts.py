"""Where everything lies in a storage. The only module that spells the names of its folders and of its fixed files.

In: a study, a model, a task or a trial id. Out: names relative to the storage, with `/`.
"""

from __future__ import annotations

from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import mixture_name, model_folder_name, recipe_folder_name, task_data_name
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

STUDY_FILE = "study.json"
"""The study as resolved, with every size and seed that was ever added."""

RESULTS_FILE = "results.parquet"
"""One row a completed trial."""

DATA = "data"
"""Prepared examples of tasks, and prepared instruction data."""

MODELS = "models"
"""Pre-trained weights of demo models."""

INSTRUCT = "instruct"
"""Instruction-tuned weights."""

RECORDS = "records"
"""One file a completed trial."""

FAILURES = "failures"
"""The last failure of trials that have no record."""

PREDICTIONS = "predictions"
"""One table a trial."""

WEIGHTS = "weights"
"""Trained weights of trials, where the study keeps them."""

LOGS = "logs"
"""One log a trial and one an instruction job."""

LEARNED = "learned"
"""What runs measured of a model."""

COMMITS = "commits"
"""The commit to which a hub model's revision pointed when it was first used."""

DRIVER = "driver"
"""Claims of the processes that run the study."""

TRAIN = "train"
"""Ray Train's own folder: checkpoints of instruction jobs that are not done."""

TUNE = "tune"
"""Ray Tune's own folder."""

TRACKING = "tracking"
"""What trackers keep here, a folder each, and which runs of theirs are this study's."""

TMP = "tmp"
"""Short-lived files of checks and jobs."""

REPORT = "report"
"""The report, where its command names no other folder."""


def manifest_of(folder: str) -> str:
    """Returns the file that says what a folder holds. It is written last, so a folder without one is not whole."""
    return f"{folder}/manifest.json"


def task_folder(study: Study, task: TaskSpec) -> str:
    """Returns the folder of a task's prepared examples."""
    return f"{DATA}/{task_data_name(study, task)}"


def split_file(folder: str, split: str) -> str:
    """Returns the file of a split, `train` or `validation`, in the folder of a task's prepared examples."""
    return f"{folder}/{split}.parquet"


def mixture_folder(study: Study) -> str:
    """Returns the folder of the prepared instruction data."""
    return f"{DATA}/{mixture_name(study)}"


def parts_folder(folder: str) -> str:
    """Returns the folder of the parts of a preparation that is not done; gone afterwards."""
    return f"{folder}/parts"


def tokens_folder(study: Study, key: str) -> str:
    """Returns the folder of the instruction data in tokens; the key names all that decides them."""
    return f"{mixture_folder(study)}/tokens/{key}"


def pretrained_folder(study: Study, model: ModelSpec) -> str:
    """Returns the folder of a demo model's pre-trained weights."""
    return f"{MODELS}/{model_folder_name(study, model)}"


def instruct_folder(study: Study, model: ModelSpec) -> str:
    """Returns the folder of a model's instruction-tuned weights that the study makes."""
    return f"{INSTRUCT}/{recipe_folder_name(study, model)}"


def job_folder(job: str) -> str:
    """Returns the folder of an instruction job's checkpoints. A job is named as the folder of the weights it makes."""
    return f"{TRAIN}/{job}"


def save_request_file(job: str) -> str:
    """Returns the file that asks an instruction job for a checkpoint. The job deletes it once the checkpoint is kept."""
    return f"{TMP}/save-{job}"


def job_log_file(job: str) -> str:
    """Returns the log of an instruction job."""
    return f"{LOGS}/instruct-{job}.log"


def events_folder(job: str) -> str:
    """Returns the folder of an instruction job's event files, which TensorBoard reads."""
    return f"{tracking_folder('tensorboard')}/{job}"


def commit_file(model: ModelSpec) -> str:
    """Returns the file that keeps the commit to which a hub model's revision pointed when it was first used."""
    return f"{COMMITS}/{fingerprint({'hub': model.hub, 'revision': model.revision})}.json"


def learned_file(model: str) -> str:
    """Returns the file of what runs measured of a model, by its short name."""
    return f"{LEARNED}/{model}.json"


def record_file(trial_id: str) -> str:
    """Returns the file of a trial's record."""
    return f"{RECORDS}/{trial_id}.json"


def stale_file(trial_id: str) -> str:
    """Returns where a stale record goes: the data or weights that it was made from have changed."""
    return f"{RECORDS}/stale/{trial_id}.json"


def corrupt_file(name: str) -> str:
    """Returns where a file of the records' folder goes that is no record."""
    return f"{RECORDS}/corrupt/{name}"


def failure_file(trial_id: str) -> str:
    """Returns the file of a trial's last failure."""
    return f"{FAILURES}/{trial_id}.json"


def predictions_file(trial_id: str) -> str:
    """Returns the table of a trial's predictions."""
    return f"{PREDICTIONS}/{trial_id}.parquet"


def log_file(trial_id: str) -> str:
    """Returns the log of a trial."""
    return f"{LOGS}/{trial_id}.log"


def trained_folder(trial_id: str) -> str:
    """Returns the folder of a trial's trained weights."""
    return f"{WEIGHTS}/{trial_id}"


def tracking_file() -> str:
    """Returns the file of the ids of trackers' runs."""
    return f"{TRACKING}/runs.json"


def tracking_folder(tracker: str) -> str:
    """Returns the folder of a tracker's files."""
    return f"{TRACKING}/{tracker}"


def claim_file(claim: str) -> str:
    """Returns the file by which a process claims the study."""
    return f"{DRIVER}/{claim}.json"


def temporary_file(name: str) -> str:
    """Returns a short-lived file."""
    return f"{TMP}/{name}"
