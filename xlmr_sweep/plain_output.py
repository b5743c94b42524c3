"""Output that every terminal can show. In: text. Out: the same, with plain characters in place of those that cannot be encoded.

A terminal or a pipe may have the encoding ASCII or Latin-1, and a path may hold bytes that are no text in any encoding. Without
this a command would end with a traceback over one such character, after its work is done.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from pathlib import Path

from xlmr_sweep.lost_output import guard_output

PLAIN = {
    "±": "+/-", "–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "×": "x", "…": "...", "→": "->",
    "≤": "<=", "≥": ">=", "·": ".", "•": "*", "µ": "u", "ß": "ss", "█": "#", "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|",
}  # fmt: skip
"""What we and our libraries print, in plain characters."""

HANDLER = "xlmr_sweep.plain"


def plain(error: UnicodeError) -> tuple[str, int]:
    """Returns plain characters in place of those that cannot be encoded: an error handler of `codecs`.

    Letters lose their accents. What has no plain form becomes `?`.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def use_plain_output() -> None:
    """Makes printing raise no error, whatever the encoding of stdout and stderr is, and also where one of them is closed.

    A device that is full and a reader that has left are met as `xlmr_sweep.lost_output` says.
    """
    _replace_closed_streams()
    guard_output()
    codecs.register_error(HANDLER, plain)
    for stream in (sys.stdout, sys.stderr):
        # A stream may have been put there by others, or be none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _replace_closed_streams() -> None:
    """Opens nothing in place of a stream that is closed, as after `>&-`.

    Otherwise the next file that is opened would get its number, and what child processes print would go into that file.
    """
    closed = [(number, name) for number, name in enumerate(("stdin", "stdout", "stderr")) if getattr(sys, name) is None]
    for number, _ in closed:
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            # For child processes too.
            os.set_inheritable(number, True)
            if nothing != number:
                os.close(nothing)
    for number, name in closed:
        setattr(sys, name, Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115  Open to the end.
