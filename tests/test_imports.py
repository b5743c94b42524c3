"""What a plan and the analysis import: neither torch nor ray, so that they answer at once and on any machine."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "xlmr_sweep.study",
        "xlmr_sweep.plan",
        "xlmr_sweep.records",
        "xlmr_sweep.status",
        "xlmr_sweep.commands",
        "xlmr_sweep.cluster.forecast",
        "xlmr_sweep.data.demo",
        "analysis",
        "analysis.report",
    ],
)
def test_imports_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["xlmr_sweep.finetune", "xlmr_sweep.workbench", "xlmr_sweep.mlm", "xlmr_sweep.pretrain"])
def test_training_knows_no_ray(module: str) -> None:
    code = f"import sys, {module}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
