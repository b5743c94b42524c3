"""The card of instruction-tuned weights that `publish` makes. In: a model of a study, and its manifest. Out: Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlmr_sweep.commands.publish_cards import TAGS, CardFacts, card, citation_part, license_of, ratio_tables, score_tables
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ASSISTANT_MARK, USER_MARK


def model_card(facts: CardFacts, model: str, manifest: Mapping[str, Any]) -> str:
    """Returns the card of a model's instruction-tuned weights.

    Args:
        facts: what all cards say.
        model: its short name in the study.
        manifest: manifest of the weights.
    """
    spec = facts.study.model(model)
    hub = f"[{spec.hub}](https://huggingface.co/{spec.hub})" if spec.hub else ""
    base = hub or (f"the offline demo's model {spec.demo}" if spec.demo else "an encoder in a folder")
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        **license_of(facts),
        "language": ["en"],
        **({"base_model": spec.hub, "base_model_relation": "finetune"} if spec.hub else {}),
        **({"datasets": [facts.study.instructions.hub]} if facts.study.instructions.source == "hub" else {}),
        "tags": TAGS,
    }
    parts = [
        f"# {model}, instruction-tuned in the study {facts.cited.name}",
        f"These are the weights of {base} after instruction tuning by masked language modelling. The study's `instructed` trials "
        "start from them. They are no classifier: fine-tune them on the examples of a task.",
        "## Use",
        _usage(),
        "## Training",
        _training(facts.study, manifest),
        "## After few-shot fine-tuning",
        "Scores from 0 to 1. `prompted` and `baseline` start from the weights before instruction tuning.",
        *score_tables(facts, model),
        *ratio_tables(facts, model),
        citation_part(facts),
    ]
    return card(metadata, parts)


def _usage() -> str:
    return f"""```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_HUB_ID)
model = AutoModelForMaskedLM.from_pretrained(FOLDER_OR_HUB_ID)
text = f"{USER_MARK} Is a cat an animal? {ASSISTANT_MARK} {{tokenizer.mask_token}}"
```

The answer is the label word with the highest probability at the mask."""


def _training(study: Study, manifest: Mapping[str, Any]) -> str:
    recipe, data = study.instruct, study.instructions
    source = data.hub if data.source == "hub" else {"folder": "a folder", "demo": "the offline demo"}[data.source]
    curve = manifest.get("loss_curve") or []
    facts = {
        "instruction data": f"{source}, targets of at most {data.max_target_tokens} tokens",
        "fingerprint of the data": manifest.get("data"),
        "fingerprint of these weights": manifest.get("weights"),
        "fingerprint of the weights before": manifest.get("base"),
        "steps": manifest.get("steps"),
        "tokens": manifest.get("tokens"),
        "first and last loss": f"{curve[0][1]:.3f}, {curve[-1][1]:.3f}" if curve else None,
        "batch": f"{recipe.global_batch_size} sequences of at most {recipe.max_length} tokens",
        "optimiser": f"AdamW, learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}",
        "schedule": f"warm-up over {recipe.warmup:.0%} of the steps, then {recipe.schedule}",
        "masks": f"all of the target, {recipe.mask_rate:.0%} of the user part",
        "precision": manifest.get("precision") or recipe.precision,
    }
    return "\n".join(f"* {what}: {value}" for what, value in facts.items() if value is not None)
