"""What a GPU run shows: every failure, misses first, the section of the page - also in a real browser."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET

import pytest
import test_bench_page
from bench_sample import sample as cpu_sample
from gpu_sample import sample
from rich.console import Console
from typer.testing import CliRunner

from fastnn.bench.gpu.page import document, sections
from fastnn.bench.gpu.report import cells, finding, outcome, problems, show
from fastnn.bench.page import page
from fastnn.cli.app import app


def shown(results):
    text = io.StringIO()
    show(results, Console(file=text, width=220))
    return text.getvalue()


def test_every_stage_and_every_failure_is_shown():
    results = sample()
    text = shown(results)
    for word in (
        "A Card <B>, compute 9.0, CuPy 14.2",
        "410 passed, 1 failed",
        "sanitizer: absent: compute-sanitizer is not installed here",
        "1 of 1 equal bit for bit",
        "bf16 780.0 TFLOP/s",
        "copy 4200 GB/s",
        "epilogues: crashed: its process ended with signal SIGSEGV",
        "0.060 s of training to 98% (asked: under 1 s): PASS",
        "steps: incomplete: 1 left out",
        "test_gpu::test_operations[relu]: AssertionError: off by <3e-4> & more",
        "compile hung, its time is not used",
        "cuBLASLt on BGRADB NT 1x2x3: the function answered CUBLAS_STATUS_INVALID_VALUE",
        "cuBLASLt: not usable",
        "MNIST: jax error: RuntimeError: no",
        "784-16-16-10, batch 32, fp32",
        "3× compile, 10× torch",
        "1 of 2 hidden layers are faster with an epilogue",
        "784-3×4096-10, 8,192, bf16, layer 2",
        "1.10 ms",
    ):
        assert word in text, word


def test_misses_come_first():
    verdicts = [cell.verdict for cell in cells(sample())]
    assert set(verdicts) == {"MISS", "", "PASS"}
    assert verdicts == sorted(verdicts, key=["MISS", "", "PASS"].index)
    open_ = next(cell for cell in cells(sample()) if cell.verdict == "")
    assert open_.reached.endswith("no compile")


def test_what_counts_as_wrong():
    results = sample()
    assert outcome(results) == (False, True)  # a test failed, a stage crashed
    results["stages"]["suite"]["status"] = "ok"
    assert outcome(results) == (False, True)
    results["stages"]["epilogues"]["status"] = "absent"
    assert outcome(results) == (True, True)  # misses of targets are shown, and are no error
    cell = next(iter(results["stages"]["steps"]["result"]["cells"].values()))
    cell["entrants"]["captured"] |= {"status": "disagrees", "note": "parameters are off"}
    assert outcome(results) == (False, True)
    results["stages"]["environment"]["status"] = "absent"
    assert outcome(results) == (False, False)


def test_nothing_measured_is_shown_as_nothing():
    results = {
        "kind": "gpu",
        "schema": 1,
        "mode": "quick",
        "sessions": [{"environment": {"date": "2026-01-02"}}],
        "stages": {},
    }
    names = ("environment", "suite", "sanitizer", "determinism", "ceilings", "epilogues", "accuracy", "steps")
    assert [finding(name, results) for name in names] == [""] * 8
    assert problems(results) == []
    assert "fastnn on a GPU" in shown(results)
    ET.fromstring(document(results).split("\n", 1)[1])


def test_the_section_is_well_formed_and_complete():
    text = document(sample())
    ET.fromstring(text.split("\n", 1)[1])
    assert text.count("<section") == 7
    for words in (
        "A Card &lt;B&gt;",
        "off by &lt;3e-4&gt; &amp; more",
        "GPU: ratio to the best other library",
        "GPU: ceilings",
        "GPU: time to accuracy",
        "85% of the ceiling",
    ):
        assert words in text
    assert sections(None) == []
    both = page(cpu_sample() | {"gpu": sample()})
    ET.fromstring(both.split("\n", 1)[1])
    assert both.count("<section") == page(cpu_sample()).count("<section") + 7


def test_the_command_takes_the_section_in(tmp_path):
    """`fastnn bench --resume` of a complete run measures nothing more and writes the page."""
    gpu, html = tmp_path / "gpu.json", tmp_path / "page.html"
    gpu.write_text(json.dumps(sample()))
    run = CliRunner().invoke(app, ["bench", "--quick", "--gpu", str(tmp_path / "none.json"), "--html", str(html)])
    assert run.exit_code == 2
    assert "none.json: not results of the GPU run" in run.output + run.stderr
    run = CliRunner().invoke(app, ["bench", "--quick", "--gpu", str(gpu)])
    assert run.exit_code == 2
    assert "--gpu" in run.output + run.stderr
    assert not html.exists()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(test_bench_page.BROWSER is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_a_browser_shows_it(tmp_path, size):
    text = document(sample()).replace("</body>", test_bench_page.MEASURE.replace("&lt;", "<") + "</body>")
    dom = test_bench_page.chromium(
        tmp_path, "--dump-dom", f"--window-size={size}", test_bench_page.write(tmp_path, text)
    )
    assert "<title>wide:0 broken:0</title>" in dom
    assert dom.count("<svg") == document(sample()).count("<svg") == 3
