"""The offline demo world: a small closed language with its text, instructions, five tasks, tokenizer and models.

Everything follows from one seed and `DEMO_VERSION`. Another seed gives another world in the same language: other names, colours
and things go together in each split, and every sentence differs. Read `world.py` first. It has the rule that keeps the facts of
evaluation out of all training text.
"""

from xlmr_sweep.data.demo.examples import task_rows
from xlmr_sweep.data.demo.instructions import instruction_rows
from xlmr_sweep.data.demo.models import build_model
from xlmr_sweep.data.demo.texts import pretraining_texts
from xlmr_sweep.data.demo.tokenizer import build_tokenizer
from xlmr_sweep.study.demo import DEMO_MODELS, DEMO_VERSION, DemoModel, Pretraining

__all__ = [
    "DEMO_MODELS",
    "DEMO_VERSION",
    "DemoModel",
    "Pretraining",
    "build_model",
    "build_tokenizer",
    "instruction_rows",
    "pretraining_texts",
    "task_rows",
]
