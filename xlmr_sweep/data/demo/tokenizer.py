"""The demo's tokenizer: byte-level BPE trained on the world's texts, with XLM-R's special tokens in XLM-R's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlmr_sweep.data.demo.examples import task_rows
from xlmr_sweep.data.demo.instructions import instruction_rows
from xlmr_sweep.data.demo.texts import pretraining_texts
from xlmr_sweep.study.demo import VOCAB_SIZE
from xlmr_sweep.study.tasks import TASKS, placeholders
from xlmr_sweep.study.template import ASSISTANT_MARK, USER_MARK

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MIN_COUNT = 2
NUM_TEXTS = 2_500


def build_tokenizer(seed: int, folder: Path) -> None:
    """Trains the tokenizer of one world and writes it to a folder that `AutoTokenizer` loads.

    The bytes written depend on the seed alone. Every byte is a token, so no text holds an unknown one.

    Args:
        seed: the generator seed.
        folder: target folder. It is made if it is missing.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=MIN_COUNT,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS[:4]),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True),
        model_input_names=["input_ids", "attention_mask"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    wrapped.save_pretrained(str(folder))


def _corpus(seed: int) -> Iterator[str]:
    yield from pretraining_texts(seed, NUM_TEXTS)
    for row in instruction_rows(seed, NUM_TEXTS):
        yield f"{USER_MARK} {row['inputs']} {ASSISTANT_MARK} {row['targets']}"
    for task in TASKS.values():
        # Twice, so that every word of a prompt reaches MIN_COUNT and becomes a token.
        yield from [" ".join(part for part in _literal(task.prompt) if part)] * MIN_COUNT
        for example in task_rows(task.name, seed)["train"]:
            yield " ".join(str(example[field]) for field in task.fields)


def _literal(prompt: str) -> list[str]:
    for name in placeholders(prompt):
        prompt = prompt.replace(f"{{{name}}}", "")
    return prompt.split()
