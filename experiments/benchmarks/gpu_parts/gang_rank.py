"""One rank of the part `gang`: `python gang_rank.py RANK SIZE STORE JOB.json OUT.json`. Trains some steps."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(EXPERIMENTS.parent), str(EXPERIMENTS)]


def main(rank: int, size: int, store: str, job: dict[str, Any]) -> dict[str, Any]:
    """Trains the job's shape on this rank's GPU, or CPU, and returns its speed and memory."""
    import torch
    import torch.distributed as dist
    from benchmarks.gpu_parts.random_rows import RandomRows
    from benchmarks.gpu_parts.shapes import GpuShape, config_of

    from xlmr_sweep.modeling.architecture import Architecture
    from xlmr_sweep.modeling.export import empty_model
    from xlmr_sweep.modeling.fsdp import World
    from xlmr_sweep.modeling.tuning_memory import TuningPlan, tuning_plan
    from xlmr_sweep.training.mlm import Run
    from xlmr_sweep.training.mlm_loss import MaskedLMLoss
    from xlmr_sweep.training.train_settings import TrainSettings

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    shape, rows = GpuShape(**job["shape"]), RandomRows(**job["rows"])
    config = config_of(shape, rows.vocabulary)
    model = empty_model(json.dumps(config.to_dict()))
    if rank == 0:
        # Constant weights: only the speed counts, and the largest shape has 10.7 G of them.
        model.to_empty(device="cpu")
        model.tie_weights()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.02 if parameter.ndim > 1 else 1.0)
            for name, buffer in model.named_buffers():
                buffer.copy_(torch.arange(buffer.shape[-1]) if name.endswith("position_ids") else torch.zeros(()))
    precision, plan = "bf16" if on_gpu else "fp32", TuningPlan(job["max_tokens"])
    architecture = Architecture.from_config(config.to_dict())
    assert architecture is not None
    if on_gpu:
        card = torch.cuda.get_device_properties(device).total_memory
        plan = tuning_plan(architecture, precision, size, card, job["max_tokens"], rows.longest, is_packed=False)
    if plan.checkpoints_activations:
        model.activation_checkpointing_enable({"use_reentrant": False})
    root = MaskedLMLoss(model)
    root.spread(World(rank, size, device), precision, plan.step_bytes)
    settings = TrainSettings(1e-6, 0.01, 0.1, "linear", 1.0, precision, 0, 1, max_tokens=plan.max_tokens)
    run = Run(root, rows, settings, World(rank, size, device))
    marks: list[tuple[float, int, int, int]] = []

    def note(run: Run) -> None:
        if run.progress.step in (job["settled"], rows.num_steps):
            if on_gpu:
                torch.cuda.synchronize()
            progress = run.progress
            marks.append((time.perf_counter(), progress.tokens, progress.pairs, progress.masked_tokens))

    run.train(note)
    seconds, tokens, pairs, masked = (after - before for before, after in zip(*marks, strict=True))
    flops = architecture.masked_lm_flops(tokens, pairs, masked)
    dist.destroy_process_group()
    return {
        "tokens_s": tokens / seconds, "flops_s": flops / seconds, "step_s": seconds / (rows.num_steps - job["settled"]),
        "micro_batch_tokens": plan.max_tokens, "activation_checkpointing": plan.checkpoints_activations,
        "keeps_gathered": bool(root.keeps_gathered), "losses": [loss for _, loss in run.progress.loss_curve],
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
    }  # fmt: skip


if __name__ == "__main__":
    number, size, store, job_file, out = sys.argv[1:]
    found = main(int(number), int(size), store, json.loads(Path(job_file).read_text()))
    if number == "0":
        Path(out).write_text(json.dumps(found))
