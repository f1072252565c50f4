"""The command line: `fastnn train | predict | evaluate | inspect | export | warm-up | doctor | bench | ...`.

Results go to stdout, progress and remarks to stderr. Exit codes: 0 done; 1 training diverged or a
check failed; 2 bad input, in one line; 130 Ctrl-C, or SIGTERM, or SIGHUP of a terminal that is closed, which are taken
for one: what was trained is saved.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and exit."""
    import os
    import signal
    import sys

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by whoever started this, as cron may. What belongs there must not end up in a file, nor stop the
            # work; the file stays open for as long as the process lives.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    from .app import app  # typer and rich, which `import fastnn` must not load

    # Of containers and batch systems, whose time is up: as a Ctrl-C, which ends a training with what it has come to.
    # Where that is ignored, as in the background of a shell script, SIGTERM ends the process at once, as it always did.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for ending in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if ending is not None and signal.getsignal(ending) is signal.SIG_DFL:  # under nohup it is ignored
                signal.signal(ending, lambda *_: signal.raise_signal(signal.SIGINT))
    app()
