"""The results as one HTML page that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from . import charts
from .accuracy import CASE, GOAL
from .gpu.page import sections as gpu_sections
from .markup import section as _section
from .markup import table as _table
from .report import median_time
from .statistics import Result
from .style import CSS
from .summary import Row, duration, problems, rows, score, size, variants, worst_first

__all__ = ["page"]


def page(results: Result) -> str:
    """A complete document; also well-formed XML after its first line."""
    parts = [
        _head(results),
        _asked(results),
        _ratios(results),
        _sweeps(results),
        _roofline(results),
        _accuracy(results),
        _inference(results),
        _besides(results),
        _everyone(results),
        *gpu_sections(results.get("gpu")),
        _remarks(results),
        _environment(results),
    ]
    environment = results["sessions"][-1]["environment"]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" '
        'content="width=device-width, initial-scale=1"/>'
        f"<title>fastnn {escape(environment['fastnn'])} "
        f"compared</title><style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _label(results: Result, name: str) -> str:
    return str(results["peers"].get(name, {}).get("label", name))


def _legend(results: Result, names: Iterable[str]) -> str:
    entries = (f'<li><i class="key {name}"></i>{escape(_label(results, name))}</li>' for name in names)
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _present(results: Result, found: Sequence[Row]) -> list[str]:
    return [name for name in results["peers"] if any((row.entrant(name) or {}).get("status") == "ok" for row in found)]


def _head(results: Result) -> str:
    total, session = score(results), results["sessions"][-1]
    environment, ceiling = session["environment"], session.get("ceiling") or {}
    peers = [peer["label"] for peer in results["peers"].values() if not peer["own"] and not peer["absent"]]
    ratios = [row for row in [*rows(results, "train"), *rows(results, "predict")] if row.ratio is not None]
    tiles = [
        (f"{total['passed']} / {total['judged']}", "cells reach what is asked"),
        (f"{total['lost']} / {total['cells']}", "cells slower than the best peer"),
    ]
    if ratios:
        worst, best = min(ratios, key=lambda row: row.ratio or 0), max(ratios, key=lambda row: row.ratio or 0)
        tiles += [(f"{worst.ratio:.2f}×", f"worst: {worst.title}"), (f"{best.ratio:.2f}×", f"best: {best.title}")]
    if ceiling.get("best"):
        tiles.append((f"{ceiling['best']:.0f}", "GFLOP/s, sgemm ceiling of this machine"))
    sentence = f"<p>{escape(text)}.</p>" if (text := variants(results)) else ""
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles
    )
    return (
        f"<h1>fastnn against {escape(_and(peers))}</h1>"
        f'<p class="soft">Training dense networks on {escape(environment["cpu"])}, {environment["cores"]} cores, '
        f"{escape(environment['date'][:10])}. The same rows in the same "
        "shuffled order from the same parameters, float32; every result was compared with a float64 run before its "
        f'time counted.</p><div class="tiles">{shown}</div>{sentence}'
    )


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words) or "nobody"


def _asked(results: Result) -> str:
    lines = score(results)["table"]
    if not lines:
        return ""
    body = []
    for line in lines:
        worst: Row = line["worst"]
        share = (
            f", {worst.cell['share']:.0%} of sgemm"
            if worst.cell["target"]["ceiling"] and worst.cell["share"] is not None
            else ""
        )
        css = "PASS" if line["passed"] == line["cells"] else "MISS"
        body.append(
            [
                escape(line["row"]),
                escape(worst.wanted),
                f'<span class="{css}">{line["passed"]} of {line["cells"]}</span>',
                f"{worst.ratio or 0:.2f}×{share}<small>{escape(worst.title)}</small>",
            ]
        )
    return _section(
        "Targets",
        "What the project asks of itself. Every cell has to meet its row; there is no averaging.",
        _table(("row", "at least", "cells that pass", "worst cell"), body),
    )


def _ratios(results: Result) -> str:
    by_net: dict[str, list[Row]] = {}
    for row in rows(results, "train"):
        by_net.setdefault(row.cell["net"], []).append(row)
    if not by_net:
        return ""
    groups = []
    for net, members in sorted(by_net.items(), key=lambda item: min(row.headroom for row in item[1])):
        ordered = sorted(members, key=lambda row: (row.cell["optimizer"] == "adam", row.cell["batch"]))
        groups.append(
            (
                net,
                [
                    _ratio(
                        results, row, f"batch {row.cell['batch']:,}{' Adam' if row.cell['optimizer'] == 'adam' else ''}"
                    )
                    for row in ordered
                ],
            )
        )
    text = (
        "Median over the rounds of best other library's time / fastnn's time, with quartiles; to the right of 1× "
        "fastnn is faster. The thick tick is what is asked, pale bars fall "
        "short of it, red bars are losses. Nets with the worst cell come first. * marks cells during which other "
        "processes used the machine."
    )
    return _section("Ratio to the best peer", text, f'<div class="scroll">{charts.bars(groups)}</div>')


def _ratio(results: Result, row: Row, label: str) -> charts.Bar:
    """A bar."""
    cell, ratio = row.cell, row.cell["ratio"]
    asked = cell["target"]["ratio"] if cell["target"] else None
    if ratio is None:
        return label, None, 1.0, 1.0, asked, "no result to compare", ""
    rival = _label(results, cell["best_peer"])
    tip = (
        f"{row.title}: fastnn {row.time(cell['ours'])}, {rival} {row.time(cell['best_peer'])}; quartiles "
        f"{ratio['q1']:.2f} to {ratio['q3']:.2f}"
    )
    short = ", short of its share" if row.verdict == "MISS" and asked is not None and ratio["median"] >= asked else ""
    return label, ratio["median"], ratio["q1"], ratio["q3"], asked, f"{rival}{' *' if row.flags else ''}{short}", tip


def _sweeps(results: Result) -> str:
    by_net: dict[str, list[Row]] = {}
    for row in rows(results, "train"):
        if row.cell["optimizer"] == "sgd":
            by_net.setdefault(row.cell["net"], []).append(row)
    pictures, seen = [], []
    for net, members in by_net.items():
        series: dict[str, list[charts.Mark]] = {}
        for row in members:
            for name in _present(results, [row]):
                entry = row.cell["entrants"][name]
                series.setdefault(name, []).append(
                    (
                        row.cell["batch"],
                        entry["median"] / row.cell["batch"],
                        f"{_label(results, name)}, {row.title}: {row.time(name)} per step",
                    )
                )
        if len(members) > 1 and series:
            pictures.append(
                charts.lines(
                    net,
                    dict(sorted(series.items(), key=lambda item: item[0] == "numba")),
                    "rows per step",
                    "time per row",
                )
            )
            seen += members
    if not pictures:
        return ""
    return _section(
        "Time per row",
        "Plain gradient descent; lower is better. Both axes are logarithmic.",
        _legend(results, _present(results, seen)),
        f'<div class="multiples">{"".join(pictures)}</div>',
    )


def _roofline(results: Result) -> str:
    ceiling = results["sessions"][-1].get("ceiling") or {}
    ours: list[charts.Mark] = []
    theirs: list[charts.Mark] = []
    for row in rows(results, "train"):
        cell = row.cell
        if cell["ratio"] is None:
            continue
        intensity = cell["flops"] / cell["bytes"]
        for marks, name in ((ours, cell["ours"]), (theirs, cell["best_peer"])):
            rate = cell["entrants"][name]["gflops"]
            marks.append((intensity, rate, f"{_label(results, name)}, {row.title}: {rate:.1f} GFLOP/s"))
    if not ours or not ceiling.get("best"):
        return ""
    text = (
        "Blue: fastnn. Rings: the best other library in the same case. The dashed roof is a copy's bandwidth (left) "
        "and the best sgemm of NumPy, SciPy and PyTorch, measured in the same run; data that stays in the caches may "
        "rise above the slope."
    )
    return _section(
        "Roofline",
        text,
        f'<div class="scroll">{charts.roofline(ours, theirs, ceiling["best"], ceiling["bandwidth"])}</div>',
    )


def _accuracy(results: Result) -> str:
    runs: dict[str, list[Result]] = {}
    series = []
    for key, unit in results["units"].items():
        if key.startswith("accuracy/") and "curve" in unit:
            _, seed, name = key.split("/")
            runs.setdefault(name, []).append(unit)
            series.append(
                (
                    name,
                    unit["curve"],
                    (
                        f"{_label(results, name)}, seed {seed}: {unit['curve'][-1][1]:.2%} after "
                        f"{unit['curve'][-1][0]:.2f} s"
                    ),
                )
            )
    if not series:
        return ""
    body = []
    for name, found in sorted(runs.items(), key=lambda item: median_time(item[1])):
        reached = [run for run in found if run["reached"] is not None]
        per_epoch = sum(run["curve"][-1][0] for run in found) / sum(len(run["curve"]) for run in found)
        body.append(
            [
                escape(_label(results, name)),
                f"{median_time(found):.2f} s" if reached else "not reached",
                f"{len(reached)} of {len(found)}",
                duration(per_epoch),
            ]
        )
    text = (
        f"MNIST, {CASE.replace('@', ', batch ', 1).replace('@adam', ', Adam 0.001')}: seconds of training until "
        f"{GOAL:.1%} of the test rows are right; a curve per seed. Same parameters, order and rule for all."
    )
    table = _table(("", "median time", "seeds that reach it", "per epoch"), body)
    return _section(
        "Time to accuracy",
        text,
        _legend(results, runs),
        f'<div class="scroll">{charts.curves(series, GOAL)}</div>',
        table,
    )


def _inference(results: Result) -> str:
    found = sorted(rows(results, "predict"), key=lambda row: (row.cell["batch"], row.headroom))
    if not found:
        return ""
    groups = [
        (title, [_ratio(results, row, row.cell["net"]) for row in found if (row.cell["batch"] == 1) is single])
        for title, single in (("one row", True), ("many rows", False))
    ]
    pictures = [
        (
            "<h3>Ratio to the best other library</h3><div "
            f'class="scroll">{charts.bars([group for group in groups if group[1]])}</div>'
        )
    ]
    for title, members in (
        ("One row: latency", [row for row in found if row.cell["batch"] == 1]),
        ("Many rows: throughput", [row for row in found if row.cell["batch"] > 1]),
    ):
        cases: list[tuple[str, dict[str, tuple[float, str]]]] = []
        for row in members:
            marks = {
                name: (row.cell["entrants"][name]["median"], f"{_label(results, name)}: {row.time(name)}")
                for name in _present(results, [row])
            }
            if marks:
                cases.append((row.title, marks))
        if cases:
            pictures.append(f'<h3>{title}</h3><div class="scroll">{charts.dots(cases)}</div>')
    text = (
        "Time per call with rows already in each library's own form; bars as above; dots further left are better. "
        "fastnn is called through its public, checked predict."
    )
    return _section("Inference", text, _legend(results, _present(results, found)), *pictures)


def _besides(results: Result) -> str:
    units, found = results["units"], []
    for name, peer in results["peers"].items():
        cells = {kind: units.get(f"{kind}/{name}", {}) for kind in ("import", "startup", "memory", "size")}
        if any(cells.values()):
            start = cells["startup"]
            median = [(part or {}).get("median") for part in (cells["import"].get("library"), start.get("warm"))]
            found.append(
                (
                    peer["label"],
                    [median[0], start.get("cold"), median[1], cells["memory"].get("peak"), cells["size"].get("total")],
                )
            )
    most = [max([values[column] or 0 for _, values in found], default=0) for column in range(5)]
    shown = (duration, duration, duration, size, size)
    body = [
        [escape(label), *(_bar(value, top, text) for value, top, text in zip(values, most, shown, strict=True))]
        for label, values in found
    ]
    text = (
        "Import: beyond NumPy's own. First step: from the start of the process, import included; cold with empty "
        "caches of compiled code. Memory: peak of a process that trains 784-300-100-10, its rows included. Installed: "
        "with everything it needs."
    )
    if any("mkl" in peer["versions"] for peer in results["peers"].values()):
        text += " fastnn's Numba engine is shown with MKL, an extra that takes most of the room."
    return (
        _section(
            "Start-up, memory, size",
            text,
            _table(("", "import", "first step, cold", "first step, warm", "peak memory", "installed"), body),
        )
        if body
        else ""
    )


def _bar(value: float | None, most: float, text: Callable[[float], str]) -> str:
    """A number over a bar as long as its share of the largest in its column."""
    return f'<div class="bar" style="--w:{100 * value / most:.0f}%">{text(value)}</div>' if value else ""


def _everyone(results: Result) -> str:
    parts = []
    for kind, title in (("train", "Training: time per step"), ("predict", "Inference: time per call")):
        found = worst_first(rows(results, kind))
        names = [name for name in results["peers"] if any(name in row.cell["entrants"] for row in found)]
        body = [
            [
                escape(row.title),
                f'<span class="{row.verdict}">{row.verdict}</span>',
                *(_entry(row, name, results) for name in names),
            ]
            for row in found
        ]
        if body:
            parts.append(
                f"<details><summary>{title}, losses "
                f"first</summary>{_table(('case', '', *(_label(results, name) for name in names)), body)}</details>"
            )
    text = (
        "Median, threads that were best, and in training how far the parameters are from the float64 run's, as a "
        "share of the way they went."
    )
    return _section("Everyone, every cell", text, *parts) if parts else ""


def _entry(row: Row, name: str, results: Result) -> str:
    entry = row.entrant(name)
    if entry is None:
        return "–"
    if entry["status"] != "ok":
        return f'<span class="bad" title="{escape(entry["note"])}">{escape(row.time(name))}</span>'
    notes: list[Any] = (
        [f"{entry['threads']} thread{'s' * (entry['threads'] != 1)}"]
        if results["peers"][name].get("sweep")
        else [entry.get("choice") or "auto"]
    )
    if entry.get("theta_error") is not None:
        notes.append(f"{entry['theta_error']:.0e}")
    return f'{row.time(name)}<small title="{escape(", ".join(notes))}">{escape(", ".join(notes))}</small>'


def _remarks(results: Result) -> str:
    lines = problems(results)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        _section(
            "What went wrong, and what is missing",
            "Results that disagree with float64 are shown as such and their times are not used.",
            f'<ul class="notes">{items}</ul>',
        )
        if lines
        else ""
    )


def _environment(results: Result) -> str:
    session = results["sessions"][-1]
    environment = session["environment"]
    blas = ", ".join(
        (f"{library['internal_api']} {library['version'] or ''} ({library['architecture'] or '?'})")
        for library in environment["blas"]
    )
    versions: dict[str, str] = {}
    for peer in results["peers"].values():
        versions |= peer["versions"]
    entries = {
        "Machine": f"{environment['cpu']}, {environment['cores']} cores, {', '.join(environment['flags'])}",
        "System": f"{environment['system']}, Python {environment['python']}",
        "BLAS": blas or "none found",
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Load": f"{environment['load']} before, {session.get('load_after')} after",
        "Measured": f"{environment['date']}; mode {results['mode']}; {len(results['sessions'])} session(s)",
    }
    return _section(
        "Measured on",
        "",
        f"<dl>{''.join(f'<dt>{key}</dt><dd>{escape(str(value))}</dd>' for key, value in entries.items())}</dl>",
    )
