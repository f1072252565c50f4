"""The picture of the README: the time of every library beside fastnn's, from the JSON of `fastnn bench`.

python bench/picture.py bench/results/cpu-2026-12-01.json docs/speed.svg

Needs matplotlib. The same results give the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

# what is drawn, from narrow to wide, and how it is called there
TRAINING = {
    "train/784-16-16-10@1@sgd": "784-16-16-10, 1 row",
    "train/784-16-16-10@128@sgd": "784-16-16-10, 128 rows",
    "train/784-30-10@32@sgd": "784-30-10, 32",
    "train/784-30-10@512@sgd": "784-30-10, 512",
    "train/1-64-64-1@32@sgd": "1-64-64-1, 32",
    "train/784-100-100-10@32@sgd": "784-100-100-10, 32",
    "train/784-100-100-10@512@sgd": "784-100-100-10, 512",
    "train/784-300-100-10@128@adam": "784-300-100-10, 128, Adam",
    "train/784-300-100-10@8192@sgd": "784-300-100-10, 8192",
    "train/28-300-300-300-300-1@32@sgd": "28-300-300-300-300-1, 32",
    "train/28-300-300-300-300-1@2048@sgd": "28-300-300-300-300-1, 2048",
    "train/784-1024-1024-10@512@sgd": "784-1024-1024-10, 512",
    "train/784-1024-1024-10@2048@sgd": "784-1024-1024-10, 2048",
}
PREDICTIONS = {
    "predict/784-16-16-10@1": "784-16-16-10, 1 row",
    "predict/784-300-100-10@1": "784-300-100-10, 1 row",
    "predict/784-1024-1024-10@1": "784-1024-1024-10, 1 row",
    "predict/784-16-16-10@10000": "784-16-16-10, 10,000 rows",
    "predict/784-300-100-10@10000": "784-300-100-10, 10,000",
}
# name, colour and mark of each peer; told apart without colours too
PEERS = {
    "jax": ("JAX", "#2f9d76", "D"),
    "compile": ("torch.compile", "#9c3f8f", "^"),
    "torch": ("PyTorch", "#d9482b", "s"),
    "onnx": ("ONNX Runtime", "#6b7280", "v"),
    "sklearn": ("scikit-learn", "#e08a1e", "o"),
}
OURS, SLOWER, INK, RULE = "#0b66d6", "#c0392b", "#1d1f24", "#dddad4"


def draw(axes: Axes, units: dict[str, Any], cells: dict[str, str], title: str) -> None:
    """One row for each cell: a mark for each peer, where its time is so many times fastnn's."""
    for row, (cell, name) in enumerate(cells.items()):
        entrants = units[cell]["entrants"]
        ours = entrants["numba"]["median"]
        times = {
            peer: entrants[peer]["median"] / ours for peer in PEERS if entrants.get(peer, {}).get("status") == "ok"
        }
        best = min(times.values())
        axes.plot([min(best, 1), max(times.values())], [row, row], color=RULE, lw=1.2, zorder=1)
        axes.plot([1, best], [row, row], color=OURS if best >= 1 else SLOWER, lw=3.5, zorder=2, solid_capstyle="butt")
        for peer, ratio in times.items():
            _, colour, mark = PEERS[peer]
            axes.plot(ratio, row, mark, color=colour, ms=6.5, mec="white", mew=0.7, zorder=3)
        print(f"{title:12} {name:28} {best:5.2f}")
    axes.set_yticks(range(len(cells)), list(cells.values()))
    axes.invert_yaxis()
    axes.axvline(1, color=INK, lw=1.3, zorder=0)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(left=False, labelsize=9)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def picture(results: Path, to: Path) -> None:
    """Overwrites an SVG with the cells above as they are in these results.

    Raises KeyError if one of them was not measured.
    """
    units = json.loads(results.read_text())["units"]
    mpl.rcParams.update({"svg.hashsalt": "fastnn", "svg.fonttype": "path", "font.size": 10, "text.color": INK})
    figure = Figure(figsize=(9, 7.2), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[len(TRAINING), len(PREDICTIONS)])
    draw(upper, units, TRAINING, "Training")
    draw(lower, units, PREDICTIONS, "Prediction")
    upper.set_xscale("log")
    upper.set_xlim(0.6, 300)
    for axes in (upper, lower):
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100, 200])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    upper.tick_params(labelbottom=True)
    lower.set_xlabel("time of the others, as a multiple of fastnn's on two cores; left of the line they are faster")
    marks = [upper.plot([], [], mark, color=colour, label=name)[0] for name, colour, mark in PEERS.values()]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False, fontsize=9.5)
    figure.savefig(to, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
