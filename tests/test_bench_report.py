"""What people see of the comparison: the tables, and a page that is well-formed and needs nothing from anywhere."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
from bench_sample import sample
from rich.console import Console

from fastnn.bench import report, summary
from fastnn.bench.page import page

# ---- what people see ------------------------------------------------------------------------------


def test_losses_come_first():
    results = sample()
    found = summary.worst_first(summary.rows(results, "train"))
    verdicts = [row.verdict for row in found]
    assert verdicts == sorted(verdicts, key=lambda v: {"MISS": 0, "": 1, "PASS": 2}[v])
    misses = [row.headroom for row in found if row.verdict == "MISS"]
    assert misses == sorted(misses)
    total = summary.score(results)
    assert total["judged"] == sum(line["cells"] for line in total["table"])
    assert total["passed"] == sum(line["passed"] for line in total["table"])


def test_durations():
    assert [summary.duration(s) for s in (1.234e-6, 9.996e-5, 0.01234, 0.9999, 12.34, 4321.0)] == [
        "1.23 µs",
        "100 µs",
        "12.3 ms",
        "1000 ms",
        "12.3 s",
        "4321 s",
    ]
    assert summary.size(123_456_789) == "123 MB"


def test_report_shows_everything():
    console = Console(width=250, record=True, file=io.StringIO())
    report.show(sample(), console)
    text = " ".join(console.export_text().split())
    for part in (
        "PASS",
        "MISS",
        "disagrees",
        "crashed",
        "ONNX Runtime is absent",
        "What is asked for",
        "of sgemm",
        "3 of 3 seeds",
        "not measured (out of time",
        "machine in some rounds",
        "410 MB",
        "Without the matrix unit (AMX), as on most processors, fastnn is slower than the best peer in",
        "On the matrix unit (AMX) throughout, which others may use here, fastnn is slower",
    ):
        assert part in text, part


class _Loads(HTMLParser):
    """What a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [
            f"{tag} {name}={value}"
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action", "xlink:href", "poster")
        ]
        if tag in ("script", "link", "iframe", "img", "object", "embed", "base"):
            self.found.append(tag)


def test_the_page_is_well_formed_and_loads_nothing():
    text = page(sample())
    doctype, _, document = text.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    tree = ET.fromstring(document)
    assert [section.text for section in tree.iter("h2")] == [
        "Targets",
        "Ratio to the best peer",
        "Time per row",
        "Roofline",
        "Time to accuracy",
        "Inference",
        "Start-up, memory, size",
        "Everyone, every cell",
        "What went wrong, and what is missing",
        "Measured on",
    ]
    loads = _Loads()
    loads.feed(text)
    assert loads.found == []
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "<no words" not in text  # escaped
    for svg in tree.iter("svg"):
        for element in svg.iter():
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                assert np.isfinite(float(element.get(name, 0)))


def test_a_page_of_next_to_nothing():
    results = sample()
    results["units"] = {}
    results["sessions"][0]["ceiling"] = {}
    tree = ET.fromstring(page(results).partition("\n")[2])
    assert tree.find(".//h1").text
    report.show(results, Console(file=(shown := io.StringIO())))
    assert "fastnn" in shown.getvalue()
