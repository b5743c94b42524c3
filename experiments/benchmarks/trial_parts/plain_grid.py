"""The other side of the benchmark, a grid with Ray Tune and the transformers Trainer: `python plain_grid.py GRID.json`.

GRID.json names the model's folder, the settings and the cells. A cell names its training and evaluation prompts (files of texts
and labels), and the order in which training takes the examples. So both sides train on the same batches. Every trial loads the
model and tokenizer, tokenises its prompts, trains with dynamic padding (fp32; bf16 on a GPU), and predicts the evaluation set.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune


def run_trial(config: dict[str, Any]) -> None:
    """One trial, in a process of its own."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, set_seed

    began = time.time()
    config = {**config, **config["cell"]}
    torch.set_num_threads(1)
    set_seed(config["seed"])
    tokenizer = AutoTokenizer.from_pretrained(config["model"], trust_remote_code=False)
    dropout = config.get("dropout", 0.0)
    model = AutoModelForMaskedLM.from_pretrained(
        config["model"],
        dtype=torch.float32,
        trust_remote_code=False,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    train, evaluation = (_load(config[split], tokenizer, config["max_length"]) for split in ("train", "evaluation"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _prompt_trainer(config, model, tokenizer, train, folder)
        trainer.train()
        predicted = trainer.predict(evaluation)
    right = int((predicted.predictions.argmax(axis=1) == predicted.label_ids).sum())
    tune.report(
        {
            "num_correct": right,
            "probabilities": torch.softmax(torch.from_numpy(predicted.predictions).double(), dim=1).tolist(),
            "trial_s": time.time() - began,
        }
    )


def _load(path: str, tokenizer: Any, max_length: int) -> Any:
    """Returns the tokenised prompts of a file."""
    from datasets import Dataset

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**tokenizer(rows["text"], truncation=True, max_length=max_length), "labels": rows["label"]}

    rows = Dataset.from_list([json.loads(line) for line in Path(path).read_text().splitlines()])
    return rows.map(tokenize, batched=True, remove_columns=["text", "label"])


def _prompt_trainer(config: dict[str, Any], model: Any, tokenizer: Any, train: Any, folder: str) -> Any:
    """Returns a Trainer that takes the examples in the order given."""
    from torch.nn import functional
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    label_ids = tokenizer.convert_tokens_to_ids(config["label_tokens"])

    class PromptTrainer(Trainer):  # type: ignore[misc]
        """Cross-entropy over the label words at the mask."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            logits = logits[inputs["input_ids"] == tokenizer.mask_token_id][:, label_ids]
            loss = functional.cross_entropy(logits, labels)
            return (loss, {"logits": logits}) if return_outputs else loss

        def _get_train_sampler(self, *options: Any) -> Any:
            return config["order"]

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=config["steps"],
        per_device_train_batch_size=config["batch_size"],
        per_device_eval_batch_size=config["batch_size"],
        learning_rate=config["learning_rate"],
        weight_decay=config["weight_decay"],
        warmup_steps=config["warmup_steps"],
        max_grad_norm=config["clip"],
        seed=config["seed"],
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu="gpu_share" not in config,
        bf16="gpu_share" in config,
    )
    return PromptTrainer(model=model, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer))


def main(path: str) -> None:
    """Runs the grid and writes `plain.json` beside its declaration."""
    grid = json.loads(Path(path).read_text())
    folder = Path(path).parent
    share = grid["settings"].get("gpu_share", 0)
    ray.init(address="local", num_cpus=grid["num_cpus"], num_gpus=1 if share else 0, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": 1, "gpu": share}),
        param_space={**grid["settings"], "cell": tune.grid_search(grid["cells"])},
        run_config=tune.RunConfig(name="plain", storage_path=str(folder / "plain"), verbose=0),
    )
    results = tuner.fit()
    rows = [{**result.config["cell"], **(result.metrics or {})} for result in results]
    kept = ("task", "train_size", "seed", "num_correct", "probabilities", "trial_s")
    (folder / "plain.json").write_text(json.dumps([{key: row[key] for key in kept} for row in rows]))
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
