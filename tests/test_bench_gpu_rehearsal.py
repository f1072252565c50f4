"""A rehearsal of `python bench/gpu.py` from a plain checkout: all stages in their own processes, through the real
device layer over a fake CuPy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """(exit code, what was printed, the JSON's path) of one run; the suite has its own tests, and there is no
    sanitizer.
    """
    out = tmp_path_factory.mktemp("out")
    path = os.pathsep.join(str(ROOT / "tests" / folder) for folder in ("gpu_rehearsal", ""))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "REHEARSED_MODE": "default",
        "XDG_CACHE_HOME": str(out / "cache"),
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin",
    }
    stages = [
        option
        for name in ("environment", "kernels", "sanitizer", "determinism", "ceilings", "epilogues", "accuracy", "steps")
        for option in ("--stage", name)
    ]
    result = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(out), *stages],
        env=environment,
        cwd=out,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    (path,) = out.glob("*.json")
    return result, json.loads(path.read_text()), path


def test_every_stage_does_its_work(rehearsal):
    result, results, path = rehearsal
    found = results["stages"]
    assert {name: entry["status"] for name, entry in found.items()} == {
        "environment": "ok",
        "kernels": "ok",
        "sanitizer": "absent",
        "determinism": "ok",
        "ceilings": "ok",
        "epilogues": "ok",
        "accuracy": "absent",
        "steps": "ok",
    }, path.with_suffix(".log").read_text()[-3000:]
    assert result.returncode == 0, result.stderr
    assert found["environment"]["result"]["device"]["name"] == "Rehearsal"
    assert {"narrow.cu float64", "output.cu bfloat16"} <= set(found["kernels"]["result"]["seconds"])
    (problem,) = found["determinism"]["result"]["problems"]
    assert (problem["status"], problem["steps"]) == ("ok", 40)
    assert set(found["ceilings"]["result"]["gemm"]) == {"fp32", "tf32", "bf16"}
    assert [entry["precision"] for entry in found["epilogues"]["result"]["problems"]] == ["fp32", "bf16"]


def test_captured_eager_and_others_agree_with_float64(rehearsal):
    cells = rehearsal[1]["stages"]["steps"]["result"]["cells"]
    assert set(cells) == {"train/12-9-3@16@sgd", "train/12-9-3@16@adam@bf16"}
    for cell in cells.values():
        status = {name: entry["status"] for name, entry in cell["entrants"].items()}
        assert {name: status[name] for name in ("captured", "eager", "torch")} == dict.fromkeys(
            ("captured", "eager", "torch"), "ok"
        )
        assert status["compile"] == "crashed"
        assert cell["ours"] == "captured"
        assert cell["entrants"]["captured"]["choice"].startswith("captured; ")
        assert cell["entrants"]["eager"]["choice"].startswith("eager; ")
        assert cell["share"] > 0
    fp32, bf16 = (
        cells[key]["entrants"]["captured"]["theta_error"]
        for key in ("train/12-9-3@16@sgd", "train/12-9-3@16@adam@bf16")
    )
    assert fp32 < 1e-3 < bf16


def test_it_is_shown(rehearsal):
    result, _, path = rehearsal
    for words in (
        "equal bit for bit",
        "Whole steps, losses first",
        "12-9-3, batch 16, Adam, bf16",
        "compile crashed, its time is not used",
        "jax is absent",
    ):
        assert words in result.stdout, result.stdout
    ET.fromstring(path.with_suffix(".html").read_text().split("\n", 1)[1])
    assert "12-9-3" in path.with_suffix(".txt").read_text()
