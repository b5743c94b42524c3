"""What to do about a problem of the surroundings that Ray or torch met, recognised by the words of its error.

In: an error's message. Out: one piece of advice, or none where the message is not known.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from xlmr_sweep.unexpected import ADVICE

Advice = str | Callable[[re.Match[str]], str]


def _interface(name: str) -> Callable[[re.Match[str]], str]:
    def advice(found: re.Match[str]) -> str:
        value = os.environ.get(name)
        now = f" (it is {value})" if value else ""
        return f"set {name}{now} to a network interface that every node has (`ip -brief address` lists them), or unset it"

    return advice


KNOWN: tuple[tuple[str, Advice], ...] = (
    (r"Unable to find address for|gloo.*(No such device|interface)", _interface("GLOO_SOCKET_IFNAME")),
    (r"(?i)no socket interface found", _interface("NCCL_SOCKET_IFNAME")),
    (r"Too many open files", "raise the limit of open files (`ulimit -n 4096`)"),
    (r"can't start new thread|Resource temporarily unavailable", "raise the limit of processes and threads (`ulimit -u`)"),
    (r"No space left on device", ADVICE[errno.ENOSPC]),
    (r"Disk quota exceeded", ADVICE[errno.EDQUOT]),
    (r"Address already in use", "another process has that port: end it (`ss -ltnp`), or try again"),
    (
        r"Cannot assign requested address|No address added out of total",
        "no port is free (`ss -s`; range: /proc/sys/net/ipv4/ip_local_port_range), or the address is not this machine's",
    ),
    (r"Read-only file system", "make that folder writable"),
    (r"No module named", "install the project, with its packages, on every node"),
)
"""Patterns of messages, and what to do. The first that is found counts."""


def advice_on(message: str) -> str:
    """Returns what to do about an error with this message; empty if it is not a known one."""
    for pattern, advice in KNOWN:
        found = re.search(pattern, message)
        if found:
            return advice if isinstance(advice, str) else advice(found)
    return ""


def with_advice(message: str) -> str:
    """Returns a message with what to do about it at its end."""
    advice = advice_on(message)
    return f"{message}; {advice}" if advice else message
