"""The GPU's part of the HTML page: sections for the page of `fastnn bench`, and a page of their own."""

from __future__ import annotations

from html import escape

from .. import charts
from ..markup import section, table
from ..statistics import Result
from ..style import CSS
from ..summary import duration
from .report import WAYS, Cell, cells, epilogues, finding, problems

__all__ = ["document", "sections"]

COLOUR = {"captured": "numba", "eager": "numpy"}  # fastnn's colours on the page


def sections(results: Result | None) -> list[str]:
    """Nothing without results, else what the GPU run found."""
    if not results:
        return []
    return [
        part
        for part in (
            _stages(results),
            _ratios(results),
            _times(results),
            _ceilings(results),
            _epilogues(results),
            _accuracy(results),
            _remarks(results),
        )
        if part
    ]


def document(results: Result) -> str:
    """A complete page of the GPU run alone."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" '
        'content="width=device-width, initial-scale=1"/>'
        f"<title>fastnn on a GPU</title><style>{CSS}</style></head><body><main><h1>fastnn on a "
        f"GPU</h1>{''.join(sections(results))}</main></body></html>\n"
    )


def _label(results: Result, name: str) -> str:
    peers = (results["stages"].get("steps", {}).get("result") or {}).get("peers") or {}
    return str(peers.get(name, {}).get("label", name))


def _stages(results: Result) -> str:
    environment = results["stages"].get("environment", {}).get("result") or {}
    device = (environment.get("device") or {}).get("name", "no device")
    body = [
        [escape(name), _status(stage["status"]), f"{stage['seconds']:.0f} s", escape(finding(name, results))]
        for name, stage in results["stages"].items()
    ]
    clocks = environment.get("card") or {}
    text = (
        f"{escape(str(device))}; {escape(str(results['sessions'][-1]['environment']['date'])[:10])}; mode "
        f"{escape(results['mode'])}"
    )
    if clocks:
        text += (
            f"; driver {escape(str(clocks.get('driver_version')))}, SM clock {escape(str(clocks.get('clocks.sm')))} "
            f"of {escape(str(clocks.get('clocks.max.sm')))} MHz when it began"
        )
    return section("On a GPU", f"{text}.", table(("stage", "", "took", "found"), body))


def _status(status: str) -> str:
    css = {"ok": "PASS", "failed": "MISS", "hung": "MISS", "crashed": "MISS"}.get(status, "soft")
    return f'<span class="{css}">{escape(status)}</span>'


def _ratios(results: Result) -> str:
    groups: dict[str, list[charts.Bar]] = {}
    for cell in cells(results):
        asked = (cell.cell.get("target") or {}).get("ratios", {}).get("compile")
        ratio = cell.cell.get("ratio")
        label = cell.short.partition(", ")[2]
        if ratio is None:
            bar: charts.Bar = (label, None, 1.0, 1.0, asked, "no result to compare", "")
        else:
            rival = _label(results, cell.cell["best_peer"])
            tip = f"{cell.title}: fastnn {cell.time(cell.cell['ours'])}, {rival} {cell.time(cell.cell['best_peer'])}"
            short = (
                ", short of its share"
                if cell.verdict == "MISS" and asked is not None and ratio["median"] >= asked
                else ""
            )
            bar = (label, ratio["median"], ratio["q1"], ratio["q3"], asked, f"{rival}{short}", tip)
        groups.setdefault(cell.cell["net"], []).append(bar)
    if not groups:
        return ""
    text = (
        "Median over the rounds of the best other library's time / fastnn's, with quartiles. The tick is what is "
        "asked against torch.compile; pale bars fall short, red bars are losses."
    )
    return section(
        "GPU: ratio to the best other library", text, f'<div class="scroll">{charts.bars(list(groups.items()))}</div>'
    )


def _times(results: Result) -> str:
    pictures: list[tuple[str, dict[str, tuple[float, str]]]] = []
    body = []
    found = cells(results)
    names = list(dict.fromkeys(name for cell in found for name in cell.entrants))
    for cell in found:
        marks = {
            COLOUR.get(name, name): (entry["median"], f"{_label(results, name)}: {cell.time(name)}")
            for name, entry in cell.entrants.items()
            if entry["status"] == "ok"
        }
        if marks:
            pictures.append((cell.short, marks))
        share = cell.cell.get("share")
        body.append(
            [
                escape(cell.title),
                f'<span class="{cell.verdict}">{cell.verdict}</span>',
                f"{share:.0%}" if share is not None else "–",
                escape(cell.wanted),
                escape(cell.reached),
                *(_entry(cell, name) for name in names),
            ]
        )
    if not body:
        return ""
    legend = "".join(
        f'<li><i class="key {COLOUR.get(name, name)}"></i>{escape(_label(results, name))}</li>' for name in names
    )
    head = ("case", "", "of ceiling", "asked", "reached", *(_label(results, name) for name in names))
    dots = f'<div class="scroll">{charts.dots(pictures)}</div>' if pictures else ""
    text = (
        "Whole training steps, losses first: same rows, order, parameters and precision; below each time how far the "
        "parameters are from a float64 run, as a share of the way they went."
    )
    return section("GPU: time per step", text, f'<ul class="legend">{legend}</ul>', dots, table(head, body))


def _entry(cell: Cell, name: str) -> str:
    entry = cell.entrants.get(name) or {}
    if entry.get("status") != "ok":
        return f'<span class="bad" title="{escape(str(entry.get("note", "")))}">{escape(cell.time(name))}</span>'
    error = entry.get("theta_error")
    return f"{cell.time(name)}<small>{error:.0e}</small>" if error is not None else cell.time(name)


def _ceilings(results: Result) -> str:
    found = results["stages"].get("ceilings", {}).get("result") or {}
    gemm = found.get("gemm") or {}
    if not gemm:
        return ""
    lines = next(iter(gemm.values()))["all"]
    body = [
        [
            f"{line['m']} × {line['n']} × {line['k']}",
            *(f"{gemm[precision]['all'][number]['gflops'] / 1000:.1f}" for precision in gemm),
        ]
        for number, line in enumerate(lines)
    ]
    if all(entry.get("sustained") for entry in gemm.values()):
        body.append(
            ["the best of them, kept up for 0.2 s", *(f"{entry['sustained'] / 1000:.1f}" for entry in gemm.values())]
        )
    clock = (found.get("card_after") or {}).get("clocks.sm")
    after = f" SM clock {escape(str(clock))} MHz just after." if clock else ""
    copy = f" A copy moves {found['copy']['best']:.0f} GB/s, read and written." if found.get("copy") else ""
    return section(
        "GPU: ceilings",
        f"TFLOP/s of cuBLAS products of random numbers, medians by device events.{copy}{after}",
        table(("rows × units × inputs", *gemm), body),
    )


def _epilogues(results: Result) -> str:
    rows = epilogues(results)
    text = (
        "Forward and back of each hidden layer: products with kernels of our own, with cuBLASLt's epilogues forward, "
        "with ReLU masks kept for the way back, with bias sums in epilogues too. The engine takes the fastest."
    )
    return (
        section(
            "GPU: epilogues", text, table(("layer", *WAYS, "fastest"), [[escape(cell) for cell in row] for row in rows])
        )
        if rows
        else ""
    )


def _accuracy(results: Result) -> str:
    found = results["stages"].get("accuracy", {}).get("result") or {}
    series = [
        (
            COLOUR.get(name, name),
            run["curve"],
            f"{found['labels'].get(name, name)}: {run['curve'][-1][1]:.2%} after {duration(run['curve'][-1][0])}",
        )
        for name, runs in (found.get("runs") or {}).items()
        for run in runs
        if "curve" in run
    ]
    if not series:
        return ""
    text = (
        f"MNIST, seconds of training until {found.get('goal', 0.98):.0%} of the test rows are right. "
        f"{escape(finding('accuracy', results))}"
    )
    return section(
        "GPU: time to accuracy", text, f'<div class="scroll">{charts.curves(series, found.get("goal", 0.98))}</div>'
    )


def _remarks(results: Result) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in problems(results))
    return section("GPU: what went wrong, and what is missing", "", f'<ul class="notes">{lines}</ul>') if lines else ""
