"""The other side of the benchmark, `datasets.map`: `python plain_map.py ROWS.jsonl MODEL OUT NUM_PROC`. Prints times as JSON.

Written as a user of datasets would: the target filter first, then the inputs of the rows that are left, template and cut.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

MAX_TARGET, MAX_LENGTH = 3, 512


def main(rows: str, model: str, out: str, num_proc: int) -> None:
    """Prepares the rows and prints what that took."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    began, used_before = time.perf_counter(), cpu_s()
    data = load_dataset("json", data_files=rows, split="train", cache_dir=f"{out}/cache")
    loaded = time.perf_counter()
    opening = [tokenizer.cls_token_id, *tokenizer("User:", add_special_tokens=False)["input_ids"]]
    middle = tokenizer("Assistant:", add_special_tokens=False)["input_ids"]
    options = {"batched": True, "num_proc": num_proc, "remove_columns": data.column_names}
    chats = data.map(fill, fn_kwargs={"tokenizer": tokenizer, "opening": opening, "middle": middle, "out": out}, **options)
    chats.save_to_disk(f"{out}/chats")
    ended = time.perf_counter()
    spent = [float(path.read_text()) for path in Path(out).glob("tokenizer-*.txt")]
    print(
        json.dumps(
            {
                "seconds": ended - began,
                "reading": loaded - began,
                "cpu": cpu_s() - used_before,
                "tokenizer_cpu": sum(spent),
                "rows": len(chats),
                "tokens": sum(map(len, chats["input_ids"])) if len(chats) < 20_000 else None,
            }
        )
    )


def cpu_s() -> float:
    """Returns the CPU seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class TimedBackend:
    """A tokenizer of the library `tokenizers` that notes the CPU time of its calls. It works in the caller's thread."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.spent_s = backend, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode_batch(self, *texts: Any, **options: Any) -> Any:
        """Tokenises as the backend does."""
        began = time.thread_time()
        try:
            return self._backend.encode_batch(*texts, **options)
        finally:
            self.spent_s += time.thread_time() - began


def fill(batch: dict[str, list[str]], tokenizer: Any, opening: list[int], middle: list[int], out: str) -> dict[str, list[Any]]:
    """Filters, tokenises and fills one batch; keeps the CPU time of the tokenizer's calls in a file of this process."""
    if not isinstance(tokenizer._tokenizer, TimedBackend):
        tokenizer._tokenizer = TimedBackend(tokenizer._tokenizer)
    targets = tokenizer(batch["targets"], add_special_tokens=False)["input_ids"]
    kept = [i for i, target in enumerate(targets) if 0 < len(target) <= MAX_TARGET and batch["inputs"][i].strip()]
    users = tokenizer([batch["inputs"][i] for i in kept], add_special_tokens=False)["input_ids"] if kept else []
    found: dict[str, list[Any]] = {"inputs": [], "targets": [], "input_ids": [], "spans": []}
    for i, user in zip(kept, users, strict=True):
        target = targets[i]
        room = MAX_LENGTH - len(opening) - len(middle) - 1 - len(target)
        if len(user) > room:
            user = user[: (room + 1) // 2] + user[len(user) - room // 2 :]
        ids = [*opening, *user, *middle, *target, tokenizer.sep_token_id]
        end = len(opening) + len(user)
        found["inputs"].append(batch["inputs"][i])
        found["targets"].append(batch["targets"][i])
        found["input_ids"].append(ids)
        found["spans"].append([len(opening), end, end + len(middle), end + len(middle) + len(target)])
    Path(f"{out}/tokenizer-{os.getpid()}.txt").write_text(str(tokenizer._tokenizer.spent_s))
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
