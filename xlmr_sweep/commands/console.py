"""Starts the command `xlmr-sweep`: `xlmr-sweep run --study paper --address auto`. The scripts in `experiments/` do the same."""

from __future__ import annotations

from xlmr_sweep import interrupt


def main() -> None:
    """Runs the command line and ends the process with its exit status."""
    interrupt.install()
    # Imported now, because that takes a while and Ctrl-C must already end the process in order.
    from xlmr_sweep.commands.subcommands import app

    app(prog_name="xlmr-sweep")


if __name__ == "__main__":
    main()
