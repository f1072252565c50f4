"""`fastnn bench`: the comparison with other libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..bench.cases import predict_cases, select, training_cases
from ..bench.cell import Settings
from ..bench.gpu.runner import read as read_gpu
from ..bench.peers import PEERS
from ..bench.results_file import dumps
from ..bench.runner import Comparison, Plan, read
from ..data import mnist
from ..errors import positive_integer
from .errors import FAILED, known, remark

__all__ = ["DEFAULT_FILE", "bench", "make_plan"]

DEFAULT_FILE = Path("fastnn-bench.json")


def make_plan(
    mode: str,
    *,
    peers: Sequence[str] = (),
    cases: Sequence[str] = (),
    rounds: int | None = None,
    data: Path | None = None,
    seeds: int | None = None,
) -> Plan:
    """What a mode measures, narrowed to these peers and cells.

    Raises
    ------
    ValueError
        A peer or cell that does not exist, or a number out of range.
    """
    chosen = {known("--peer", name, PEERS): PEERS[name] for name in peers} or dict(PEERS)
    if peers:  # without fastnn there would be nothing to compare with
        chosen = {name: spec for name, spec in PEERS.items() if name in chosen or name == "numba" or spec.variant}
    settings = {
        "quick": Settings(rows=8192, seconds=0.03, rounds=5, timeout=60, both_compiled=False),
        "default": Settings(both_compiled=False),
        "all": Settings(seconds=0.1, rounds=11, timeout=600),
    }[mode]
    if rounds is not None:
        settings.rounds = positive_integer("--rounds", rounds)
    if seeds is not None and seeds < 0:
        raise ValueError(f"--seeds must be an integer >= 0, got {seeds}")
    if data is not None:
        mnist.find(data)  # a folder without its files is refused now, not after half an hour
    plan = Plan(
        mode, training_cases(mode), predict_cases(mode), settings, chosen, data=str(data) if data is not None else None
    )
    if mode == "quick":
        plan.gemm_sizes, plan.gemm_seconds, plan.repeats = (1024, 2048), 0.2, 1
    if cases:
        plan.training, plan.predicting, plan.extras, plan.seeds = select(plan.training, cases), (), False, 0
    if seeds is not None:
        plan.seeds = seeds
    return plan


def bench(
    mode: str,
    *,
    peers: Sequence[str],
    cases: Sequence[str],
    rounds: int | None,
    data: Path | None,
    seeds: int | None,
    json: Path | None,
    html: Path | None,
    gpu: Path | None,
    resume: Path | None,
) -> int:
    """Run the command; 1 if an engine of fastnn failed or its result disagreed with float64."""
    from ..bench.report import show

    if gpu is not None and html is None:
        raise ValueError("--gpu adds a section to the page: give --html as well")
    on_gpu = read_gpu(gpu) if gpu is not None else None
    results = read(resume) if resume is not None else None
    if results is not None and mode == "default":
        mode = results["mode"]
    plan = make_plan(mode, peers=peers, cases=cases, rounds=rounds, data=data, seeds=seeds)
    path = json or resume
    if path is None and mode != "quick":
        path = DEFAULT_FILE
        if path.exists():
            raise ValueError(
                f"{path} holds the results of an earlier run: --resume {path} goes on with it, --json PATH writes "
                "another file"
            )
    for target in (path, html):
        if target is not None and str(target) != "-" and not target.absolute().parent.is_dir():
            raise ValueError(f"{target}: the folder {target.absolute().parent} does not exist")
    to_stdout = path is not None and str(path) == "-"
    progress = Console(stderr=True)
    with progress.status("starting") as status:

        def say(text: str) -> None:
            status.update(text)
            if not progress.is_terminal and " round " not in text and "prepares" not in text:
                remark(text)

        results = Comparison(plan, None if to_stdout else path, results, say).run()
    if to_stdout:
        sys.stdout.write(dumps(results) + "\n")
    else:
        console = Console()
        show(results, console if console.is_terminal else Console(width=190))
    if html is not None:
        from ..bench.page import page

        html.write_text(page({**results, "gpu": on_gpu}), encoding="utf-8")
        remark(f"page written to {html}")
    if path is not None and not to_stdout:
        remark(f"results written to {path}")
    own = [name for name, peer in results["peers"].items() if peer["own"] and not peer["absent"]]
    bad = [
        key
        for key, unit in results["units"].items()
        for name in own
        if unit.get("entrants", {}).get(name, {"status": "ok"})["status"] != "ok"
    ]
    if bad:
        remark(f"an engine of fastnn failed or disagreed in {', '.join(bad)}")
    return FAILED if bad else 0
