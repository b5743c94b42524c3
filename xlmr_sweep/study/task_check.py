"""Whether a task can be asked of a tokenizer: label words, the prompt's own words, and room for them. Pure.

In: a task, a tokenizer, the length of the longest input. Out: the ids of the label words, or one line that says what is wrong.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.tasks import TaskSpec, render
from xlmr_sweep.study.template import ASSISTANT_MARK, ChatTemplate
from xlmr_sweep.study.text_tokens import TextTokens, Tokenizer, is_dropped, says_something, special_ids

USUAL_MASKS = ("<mask>", "[MASK]", "<|mask|>")
"""How most tokenizers spell the mask. In a prompt they are refused for any tokenizer."""


def label_token_ids(tokenizer: Any, task: TaskSpec) -> list[int]:
    """Returns the token id of each label word, in the order of the task's labels.

    Raises:
        StudyError: if a word is not exactly one known token of the tokenizer, is a special token, is another word's token, is
            another token behind other words, or loses letters.
    """
    words = [" " + word for word in task.label_words]
    alone = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
    encoded, places = alone["input_ids"], alone["offset_mapping"]
    behind = tokenizer([f" {ASSISTANT_MARK}{word}" for word in words], add_special_tokens=False)["input_ids"]
    unknown, special = tokenizer.unk_token_id, special_ids(tokenizer)
    word_of: dict[int, str] = {}
    for word, ids, within in zip(task.label_words, encoded, behind, strict=True):
        if len(ids) != 1 or ids[0] == unknown:
            what = "an unknown token" if unknown in ids else f"{len(ids)} tokens"
            raise StudyError(f"task {task.name}: label word {word!r} is {what} of the tokenizer; choose a word of one token")
        if ids[0] in special:
            raise StudyError(f"task {task.name}: label word {word!r} is a special token of the tokenizer; choose a word")
        if ids[0] in word_of:
            raise StudyError(
                f"task {task.name}: label words {word_of[ids[0]]!r} and {word!r} are one and the same token of the tokenizer; "
                "choose words of different tokens"
            )
        if within[-1] != ids[0]:
            # One that strips a text and marks words only at its very start would make ends of words of all that is asked.
            here, there = tokenizer.convert_ids_to_tokens([ids[0], within[-1]])
            raise StudyError(
                f"task {task.name}: label word {word!r} is the token {here!r} alone and {there!r} behind other words; the "
                "tokenizer drops the space before a text; set prepend_scheme in tokenizer.json to always, if that fits the model"
            )
        word_of[ids[0]] = word
    for number, word, [(start, end)] in zip(word_of, words, places, strict=True):
        if any(map(str.isalnum, word[:start] + word[end:])):
            # A byte-pair tokenizer without an unknown token drops characters that it does not know.
            (token,) = tokenizer.convert_ids_to_tokens([number])
            raise StudyError(
                f"task {task.name}: label word {word[1:]!r} is the token {token!r} of the tokenizer, which does not know all "
                "of its letters; choose a word that it knows"
            )
    return list(word_of)


def check_prompt(tokenizer: Tokenizer, task: TaskSpec, max_length: int) -> None:
    """Checks that a task's prompt can be asked: its label words, its own words, and room for these.

    Raises:
        StudyError: as `label_token_ids`, or if the prompt spells a special token, or if its own words take more than `max_length`
            tokens.
    """
    label_token_ids(tokenizer, task)
    if tokenizer.mask_token_id is not None and tokenizer.mask_token_id == tokenizer.unk_token_id:
        raise StudyError("the tokenizer has one token for the mask and for unknown characters, so a text may hold a mask")
    found = _spelt(tokenizer, task.prompt, USUAL_MASKS)
    if found:
        raise StudyError(
            f"task {task.name}: its prompt spells {found!r}, a special token; leave it out: the mask goes by itself to where the "
            "answer stands, behind the prompt"
        )
    template = ChatTemplate(tokenizer, max_length)
    (num_words,) = template.num_tokens([render(task.prompt, dict.fromkeys(task.fields, ""))])
    needed = num_words + template.num_frame_tokens + 1
    if needed > max_length:
        raise StudyError(
            f"task {task.name}: its prompt takes {needed} tokens without any field ({num_words} of its own words, "
            f"{template.num_frame_tokens} of the template, one mask), and max_length is {max_length}; "
            f"set finetune.max_length above {needed} or shorten the prompt"
        )


def check_content_free(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Checks that the texts without content, by which zero-shot scores are calibrated, spell no special token.

    Raises:
        StudyError: naming the text and the special token.
    """
    for text in texts:
        if found := _spelt(tokenizer, text.replace("{", "{{").replace("}", "}}"), USUAL_MASKS):
            raise StudyError(f"zero_shot.content_free: {text!r} spells {found!r}, a special token, and no text may hold one")


def check_bare_texts(tokenizer: Tokenizer, task: TaskSpec) -> None:
    """Checks that a task's bare texts, which `baseline` sees, spell no special token.

    Raises:
        StudyError: naming the task and the special token.
    """
    for text in task.baseline:
        if found := _spelt(tokenizer, text):
            raise StudyError(
                f"task {task.name}: its baseline text spells {found!r}, a special token; leave it out: special tokens go by "
                "themselves around the texts and between two of them"
            )


def check_rows(tokenizer: Tokenizer, task: TaskSpec, rows: Iterable[Mapping[str, Any]], max_length: int) -> None:
    """Checks that the prompt of every row fits, if need be without its long field.

    Raises:
        StudyError: naming the first row that does not, with the numbers.
    """
    template = ChatTemplate(tokenizer, max_length)
    # A token has at least one byte, so most rows need no tokenizer. Some normalisers lengthen text, by a few characters at most.
    long = [row for row in rows if 2 * len(_without_long_field(task, row).encode()) > template.prompt_room]
    for row, num_tokens in zip(long, template.num_tokens([_without_long_field(task, row) for row in long]), strict=True):
        if num_tokens > template.prompt_room and template.num_tokens([render(task.prompt, row)])[0] > template.prompt_room:
            raise StudyError(template.too_long(task, num_tokens, f"the prompt of example {row['example_id']}"))


SAMPLED = 50
"""Examples of which the tokenizer's knowledge is looked at. A language that it does not know shows in all of them."""


def unread_note(tokenizer: Any, task: TaskSpec, rows: Sequence[Mapping[str, Any]]) -> str:
    """Says how many of some examples have a field in which a tokenizer knows no letter or digit; empty if none has.

    Args:
        tokenizer: tells tokens by name, too.
        task: the task.
        rows: its examples.
    """
    unknown = tokenizer.unk_token_id
    if not rows:
        return ""
    some = rows[:: -(-len(rows) // SAMPLED)]
    places = [(place, field) for place in range(len(some)) for field in task.fields]
    texts = [str(some[place][field]) for place, field in places]
    lost: dict[int, str] = {}
    for (place, field), text, ids in zip(places, texts, TextTokens(tokenizer).ids(texts), strict=True):
        known = tokenizer.convert_ids_to_tokens([number for number in ids if number != unknown])
        if is_dropped(text, known) or (unknown in ids and not any(map(says_something, known))):
            lost.setdefault(place, field)
    if not lost:
        return ""
    place, field = next(iter(lost.items()))
    return (
        f"task {task.name}: its tokenizer knows nothing of a field in {len(lost)} of {len(some)} examples that were looked at, "
        f"such as {field!r} of example {some[place]['example_id']}; the model cannot tell such texts apart"
    )


def check_instruction_length(tokenizer: Tokenizer, max_length: int) -> None:
    """Checks that an instruction row can fit: the template, one token of the user part and one of the target.

    Raises:
        StudyError: with the numbers.
    """
    num_frame = ChatTemplate(tokenizer, max_length).num_frame_tokens
    if num_frame + 2 > max_length:
        raise StudyError(
            f"instruct.max_length {max_length} holds no row: the template takes {num_frame} tokens, a user part and a target at "
            f"least one each; set instruct.max_length to at least {num_frame + 2}"
        )


def _without_long_field(task: TaskSpec, row: Mapping[str, Any]) -> str:
    return render(task.prompt, {**row, task.long_field: ""})


def _spelt(tokenizer: Tokenizer, text: str, more: Sequence[str] = ()) -> str:
    """Returns the special token that a template's own words spell, in any case or width. Empty if there is none."""
    words = [unicodedata.normalize("NFKC", literal) for literal, _, _, _ in string.Formatter().parse(text)]
    # A special token that is a plain word may be meant as a word. The loop below decides that by the token ids.
    spellings = [token for token in (*tokenizer.all_special_tokens, *more) if not token.isalnum()]
    known = re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))) or r"\Z.", re.IGNORECASE)
    special = TextTokens(tokenizer).special
    for word in words:
        if found := known.search(word):
            return found[0]
        encoded = tokenizer([" " + word], add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(encoded["input_ids"][0], encoded["offset_mapping"][0], strict=True):
            if token in special:
                return f" {word}"[start:end].strip()
    return ""
