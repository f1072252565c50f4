"""The charts of the page as inline SVG. Colours come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["Bar", "Mark", "bars", "curves", "dots", "lines", "roofline"]


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{css}"/>'


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{_n(width)}px">{"".join(parts)}</svg>'
    )


class Log:
    """A logarithmic axis from values to a range of coordinates."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, max(high, low * 1.01), start, end

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        return self.start + (self.end - self.start) * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, steps: Sequence[float] = (1, 2, 5)) -> list[float]:
        """1, 2 and 5 times powers of ten inside; powers alone where that would be crowded."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        if last - first > 3:
            steps = (1,)
        return [
            step * 10.0**power
            for power in range(first, last + 1)
            for step in steps
            if self.low * 0.999 <= step * 10.0**power <= self.high * 1.001
        ]


def number(value: float) -> str:
    """Short: 0.25, 4, 512, 2k, 3M; but 2048."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= factor and value % (factor / 10) == 0:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def seconds(value: float) -> str:
    """A tick of a time axis."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if value >= factor * 0.999:
            return f"{value / factor:g} {unit}"
    return f"{value:.0e} s"


Bar = tuple[str, float | None, float, float, float | None, str, str]


def bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Ratios on a logarithmic axis, from the line at 1 to the right (faster) or to the left (slower).

    A bar is (label, ratio, lower quartile, upper quartile, ratio asked, text behind, tooltip).
    """
    every = [bar for _, group in groups for bar in group if bar[1] is not None]
    lowest = min([bar[2] for bar in every], default=1)
    highest = max([max(bar[3], bar[4] or 1) for bar in every], default=1)
    axis = Log(min(0.5, lowest / 1.15), max(4.0, highest * 1.2), 150, 720)
    height = 34 + sum(32 + 20 * len(group) for _, group in groups)
    parts = []
    for tick in axis.ticks((1, 1.5, 2, 3, 5, 7)):
        parts += [
            _line(axis(tick), 22, axis(tick), height - 6, "one" if tick == 1 else "grid"),
            _text(axis(tick), 14, f"{tick:g}×", "tick", "middle"),
        ]
    y = 30.0
    for title, group in groups:
        parts.append(_text(0, y + 15, title, "group"))
        y += 26
        for label, ratio, q1, q3, asked, behind, tip in group:
            parts.append(_text(138, y + 11, label, "label", "end"))
            if ratio is None:
                parts.append(_text(axis(1) + 6, y + 11, behind, "label"))
            else:
                left, right = sorted((axis(1), axis(ratio)))
                colour = (
                    "slower"
                    if ratio < 1
                    else "faster"
                    if asked is None or (ratio >= asked and "short of" not in behind)
                    else "short"
                )
                parts.append(
                    f'<g><title>{escape(tip)}</title><rect x="{_n(left)}" y="{_n(y + 1)}" '
                    f'width="{_n(max(1.0, right - left))}" height="13" rx="2" class="{colour}"/>'
                )
                parts.append(_line(axis(q1), y + 7.5, axis(q3), y + 7.5, "whisker") + "</g>")
                parts.append(_text(760, y + 11, f"{ratio:.2f}×", "value", "end") + _text(770, y + 11, behind, "label"))
            if asked is not None:
                parts.append(_line(axis(asked), y - 1, axis(asked), y + 16, "asked"))
            y += 20
        y += 6
    return _svg(980, height, "Ratio of fastnn to the best other library, per case", parts)


Mark = tuple[float, float, str]  # x, y, tooltip


def _frame(
    x: Log,
    y: Log,
    x_title: str,
    y_title: str,
    x_label: Sequence[tuple[float, str]],
    y_label: Sequence[tuple[float, str]],
) -> list[str]:
    parts = [
        _line(x.start, y(tick), x.end, y(tick), "grid") + _text(x.start - 6, y(tick) + 4, text, "tick", "end")
        for tick, text in y_label
    ]
    parts += [
        _line(x(tick), y.start, x(tick), y.end, "grid") + _text(x(tick), y.start + 16, text, "tick", "middle")
        for tick, text in x_label
    ]
    parts += [
        _text((x.start + x.end) / 2, y.start + 34, x_title, "axis", "middle"),
        _text(x.start - 40, y.end - 12, y_title, "axis"),
    ]
    return parts


def lines(title: str, series: Mapping[str, Sequence[Mark]], x_title: str, y_title: str) -> str:
    """One line per library over a logarithmic plane; the key of a series is its CSS class."""
    points = [point for marks in series.values() for point in marks]
    xs = sorted({point[0] for point in points})
    x = Log(min(xs) / 1.3, max(xs) * 1.3, 58, 420)
    y = Log(min(point[1] for point in points) / 1.4, max(point[1] for point in points) * 1.4, 250, 44)
    parts = [
        _text(0, 14, title, "group"),
        *_frame(
            x,
            y,
            x_title,
            y_title,
            [(value, number(value)) for value in xs],
            [(tick, seconds(tick)) for tick in y.ticks()],
        ),
    ]
    for name, marks in series.items():
        path = " ".join(f"{_n(x(a))},{_n(y(b))}" for a, b, _ in sorted(marks))
        parts.append(f'<polyline points="{path}" class="line {name}"/>')
        parts += [
            f'<circle cx="{_n(x(a))}" cy="{_n(y(b))}" r="3.2" class="dot {name}"><title>{escape(tip)}</title></circle>'
            for a, b, tip in marks
        ]
    return _svg(432, 292, title, parts)


def roofline(ours: Sequence[Mark], theirs: Sequence[Mark], ceiling: float, bandwidth: float) -> str:
    """GFLOP/s over operations per byte, under the copy's slope and the sgemm ceiling; ours and the best peer of a
    case joined.
    """
    points = [*ours, *theirs]
    x = Log(min(point[0] for point in points) / 2, max(point[0] for point in points) * 2, 64, 860)
    y = Log(min(point[1] for point in points) / 2, ceiling * 1.6, 420, 40)
    knee = ceiling / bandwidth
    start = max(x.low, y.low / bandwidth)
    frame = _frame(
        x,
        y,
        "operations per byte that has to move (rows once, parameters twice)",
        "GFLOP/s",
        [(t, number(t)) for t in x.ticks()],
        [(t, number(t)) for t in y.ticks()],
    )
    parts = [*frame, _line(x(max(knee, x.low)), y(ceiling), x.end, y(ceiling), "roof")]
    if knee > x.low:
        parts.append(_line(x(start), y(bandwidth * start), x(knee), y(ceiling), "roof"))
    parts.append(_text(x.start + 8, y(ceiling) - 7, f"sgemm, measured in this run: {ceiling:.0f} GFLOP/s", "label"))
    parts += [_line(x(a[0]), y(a[1]), x(b[0]), y(b[1]), "tie") for a, b in zip(ours, theirs, strict=True)]
    for css, marks in (("best", theirs), ("numba", ours)):
        parts += [
            (f'<circle cx="{_n(x(a))}" cy="{_n(y(b))}" r="5" class="dot {css}"><title>{escape(tip)}</title></circle>')
            for a, b, tip in marks
        ]
    return _svg(880, 462, "Roofline: operations per second against operations per byte", parts)


def dots(cases: Sequence[tuple[str, Mapping[str, tuple[float, str]]]]) -> str:
    """A row per case, a dot per library on a logarithmic axis of time; the key of a dot is its CSS class."""
    values = [value for _, found in cases for value, _ in found.values()]
    x = Log(min(values) / 1.5, max(values) * 1.5, 270, 880)
    height = 40 + 26 * len(cases)
    parts = [
        _line(x(tick), 24, x(tick), height - 8, "grid") + _text(x(tick), 16, seconds(tick), "tick", "middle")
        for tick in x.ticks()
    ]
    for row, (label, found) in enumerate(cases):
        y = 42 + 26 * row
        ends = [x(value) for value, _ in found.values()]
        parts.append(
            _text(258, y + 4, label, "label", "end") + (_line(min(ends), y, max(ends), y, "tie") if ends else "")
        )
        ordered = sorted(found.items(), key=lambda item: -item[1][0])  # the fastest on top
        parts += [
            f'<circle cx="{_n(x(value))}" cy="{_n(y)}" r="5.5" class="dot {name}"><title>{escape(tip)}</title></circle>'
            for name, (value, tip) in ordered
        ]
    return _svg(900, height, "Time per call of every library", parts)


def curves(series: Sequence[tuple[str, Sequence[tuple[float, float]], str]], goal: float) -> str:
    """Accuracy over seconds, one curve per library and seed, on an axis that stretches towards 100 %; the class is
    the library.
    """
    longest = max(points[-1][0] for _, points, _ in series)
    error = Log(
        max(0.001, min(1 - value for _, points, _ in series for _, value in points) / 1.2),
        max(1 - points[0][1] for _, points, _ in series) * 1.2,
        40,
        400,
    )
    left, right = 64.0, 860.0

    def x(value: float) -> float:
        return left + (right - left) * value / (longest * 1.05)

    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if longest / s <= 10), 200)
    parts = [
        _line(x(k * step), 40, x(k * step), 400, "grid") + _text(x(k * step), 416, f"{k * step:g} s", "tick", "middle")
        for k in range(int(longest / step) + 1)
    ]
    parts += [
        _line(left, error(tick), right, error(tick), "grid")
        + _text(left - 6, error(tick) + 4, f"{100 * (1 - tick):g} %", "tick", "end")
        for tick in error.ticks((1, 1.5, 2, 3, 5))
    ]
    parts += [
        _line(left, error(1 - goal), right, error(1 - goal), "one"),
        _text(left + 8, error(1 - goal) - 6, f"goal {goal:.1%}", "label"),
    ]
    parts.append(
        _text((left + right) / 2, 438, "seconds of training", "axis", "middle")
        + _text(left - 44, 24, "test accuracy", "axis")
    )
    for name, points, tip in sorted(series, key=lambda item: item[0] == "numba"):
        path = " ".join(f"{_n(x(a))},{_n(error(1 - b))}" for a, b in points)
        a, b = points[-1]
        parts.append(
            f'<g><title>{escape(tip)}</title><polyline points="{path}" class="line {name}"/><circle cx="{_n(x(a))}" '
            f'cy="{_n(error(1 - b))}" r="4.5" class="dot {name}"/></g>'
        )
    return _svg(880, 446, "Test accuracy over training time", parts)
