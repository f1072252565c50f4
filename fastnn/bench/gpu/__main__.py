"""The command behind bench/gpu.py: `python -m fastnn.bench.gpu [--quick | --all] [--budget SECONDS] [--out FOLDER]
[--resume FILE] [--data DIR]`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..environment import now
from ..statistics import Result
from .page import document
from .report import outcome, show
from .runner import STAGES, Run, read

__all__ = ["arguments", "main"]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; argparse exits with 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="bench/gpu.py",
        description="Settle everything about the CuPy engine on a machine with an NVIDIA GPU: tests, sanitizer, "
        "determinism, speed.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two minutes")
    size.add_argument("--all", action="store_true", help="every net, batch, optimizer and precision; hours, resumable")
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="for everything; what is not done by then is left to --resume",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the results go: beside the file of --resume, else bench/results of the checkout, else the current "
        "folder",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on with the JSON of an earlier run; what failed is done again"
    )
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        choices=[stage.name for stage in STAGES],
        help="this stage only; repeatable",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with MNIST's four IDX files; or set FASTNN_MNIST"
    )
    parser.add_argument("--checkout", type=Path, help=argparse.SUPPRESS)  # bench/gpu.py says where tests/ is
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if nothing is wrong (misses of what is asked are shown, not counted), 1 if something is, 2 without a
    usable GPU.
    """
    from rich.console import Console

    given = arguments(argv)
    mode = "quick" if given.quick else "all" if given.all else "default"
    checkout = given.checkout.resolve() if given.checkout else None
    try:
        earlier = read(given.resume) if given.resume else None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if earlier is not None and mode == "default":
        mode = earlier["mode"]
    folder = given.out or (
        given.resume.parent if given.resume else checkout / "bench" / "results" if checkout else Path()
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = (
        folder / given.resume.name
        if given.resume
        else folder / f"gpu-{now()[:16].replace(':', '').replace('T', '-')}.json"
    )
    run = Run(
        mode,
        path,
        earlier,
        only=given.stage,
        checkout=str(checkout) if checkout else None,
        data=str(given.data.resolve()) if given.data else None,
        budget=given.budget,
        say=say,
        after=lambda results: write_pages(results, path),
    )
    with ended_by_an_exception():
        try:
            results = run.run()
        finally:
            write_pages(run.results, path)
    console = Console()
    with told("the tables"):
        show(results, console if console.is_terminal else Console(width=190))
    say(f"written: {path}, and beside it .html, .txt and .log")
    good, usable = outcome(results)
    return 0 if good else 1 if usable else 2


def write_pages(results: Result, path: Path) -> None:
    """The page and the text beside the JSON, of what there is."""
    from rich.console import Console

    with told("the page"):
        path.with_suffix(".html").write_text(document(results), encoding="utf-8")
    with told("the text"), path.with_suffix(".txt").open("w", encoding="utf-8") as file:
        show(results, Console(file=file, width=190))


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """An error in showing results is told; it costs neither the results nor other ways to show them."""
    try:
        yield
    except Exception as error:
        say(f"{what} could not be written ({type(error).__name__}: {error})")


@contextlib.contextmanager
def ended_by_an_exception() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit, so that a stage is ended and results are written."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def seconds(text: str) -> float:
    """A positive number; argparse names the option."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def say(text: str) -> None:
    """One line on stderr."""
    print(f"gpu: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
