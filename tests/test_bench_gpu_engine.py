"""What the GPU run asks of the engine - the same bits replayed and eager, the ways of a layer timed - over the
stand-in of the device.
"""

from __future__ import annotations

from types import SimpleNamespace

import gpu_lab
import numpy as np
import pytest

from fastnn.bench.client import Absent
from fastnn.bench.gpu import determinism, engine, epilogues, report
from fastnn.bench.gpu.stage import Request


def nothing(part):
    """Where a stage writes its parts."""


# ---- determinism
# ------------------------------------------------------------------------------------------------------


SMALL = [problem for problem in determinism.PROBLEMS if max(problem.sizes) < 100]


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: f"{p.rule} {'fused' * p.fused}")
def test_replayed_steps_give_the_bits_of_eager_ones(problem):
    """Twenty steps here, a thousand on a device."""
    entry = determinism.compare(gpu_lab.make_backend(), problem, 20)
    assert (entry["status"], entry["note"]) == ("ok", "")


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: f"{p.rule} {'fused' * p.fused}")
def test_the_same_steps_give_the_same_bits(problem):
    backend, mode = gpu_lab.make_backend(), "fused" if problem.fused else "eager"
    (theta, cost), (again, other) = (determinism.train(backend, problem, mode, 9) for _ in range(2))
    np.testing.assert_array_equal(theta, again)
    assert cost == other
    assert not np.array_equal(theta, determinism.train(backend, problem, mode, 8)[0])


def test_a_difference_is_told(monkeypatch):
    results = {"eager": (np.array([1, 2, 3], np.uint8), 0.5), "captured": (np.array([1, 2, 4], np.uint8), 0.5)}
    problem = determinism.PROBLEMS[0]
    monkeypatch.setattr(determinism, "train", lambda backend, problem, mode, steps: results[mode])
    entry = determinism.compare(None, problem)
    assert (entry["status"], entry["note"]) == (
        "failed",
        "captured against eager: 1 of 3 bytes differ, cost 0.5 and 0.5",
    )
    results["captured"] = results["eager"]
    assert determinism.compare(None, problem)["status"] == "ok"
    results["captured"] = (results["eager"][0], 0.5000001)
    assert determinism.compare(None, problem)["status"] == "failed"
    turns = iter([results["eager"], results["eager"], (np.array([0, 2, 3], np.uint8), 0.5)])
    monkeypatch.setattr(determinism, "train", lambda *a: next(turns))
    assert determinism.compare(None, problem)["note"].startswith("captured twice: 1 of 3")

    def broken(*arguments):
        raise RuntimeError("illegal address\nlong")

    monkeypatch.setattr(determinism, "train", broken)
    assert determinism.compare(None, problem)["note"] == "RuntimeError: illegal address"


@pytest.mark.parametrize(("no_products", "status"), [(None, "failed"), ("no cuBLASLt here", "absent")])
def test_steps_that_could_have_been_captured_and_were_not_are_a_fault(monkeypatch, no_products, status):
    def otherwise(*arguments):
        raise Absent("the engine ran its steps eager, not captured: no room")

    monkeypatch.setattr(determinism, "train", otherwise)
    backend = SimpleNamespace(device=SimpleNamespace(no_products=no_products))
    assert determinism.compare(backend, determinism.PROBLEMS[0])["status"] == status


def test_eager_steps_are_those_of_a_program_that_was_timed_for_graphs():
    backend = gpu_lab.make_backend()
    determinism.train(backend, SMALL[0], "eager", 3)
    assert not backend.device.paced_by_host


def test_a_program_that_ran_otherwise_than_asked_is_not_taken_for_it():
    engine.check(SimpleNamespace(mode="captured", why_eager=""), "captured")
    with pytest.raises(Absent, match="the engine ran its steps eager, not captured: no room"):
        engine.check(SimpleNamespace(mode="eager", why_eager="no room"), "captured")
    engine.check(SimpleNamespace(mode="fused", why_eager=""), "captured")
    with pytest.raises(Absent, match="fused, not eager"):
        engine.check(SimpleNamespace(mode="fused", why_eager=""), "eager")
    with pytest.raises(Absent, match="captured, not eager"):
        engine.check(SimpleNamespace(mode="captured", why_eager=""), "eager")


def test_the_determinism_stage(monkeypatch):
    monkeypatch.setattr(determinism.labs, "open_lab", gpu_lab.StandInLab)
    monkeypatch.setattr(
        determinism, "compare", lambda backend, problem: {"title": problem.title, "status": "ok", "note": ""}
    )
    result = determinism.run(Request("quick"), nothing)
    assert len(result["problems"]) == 2
    assert result["failed"] == 0
    assert determinism.run(Request("quick", 1), nothing)["left_out"]


# ---- epilogues
# ----------------------------------------------------------------------------------------------------------


def test_every_way_of_a_layer_is_timed():
    backend = gpu_lab.make_backend()
    found = epilogues.measure(backend, "20-24-16-4", 32, "fp32")
    assert len(found["layers"]) == 2
    assert all(set(layer) == {"own", "forward", "masks", "epilogues"} for layer in found["layers"])
    assert all(seconds is None or seconds >= 0 for layer in found["layers"] for seconds in layer.values())
    assert all(layer["own"] is not None for layer in found["layers"])
    assert "layer 2: " in found["choice"]
    assert found["fused"] == {}  # the stand-in is told not to fuse
    with engine.fusing(backend, True):
        found = epilogues.measure(backend, "20-24-16-4", 32, "fp32")
    assert found["choice"].startswith("fused: ")
    assert set(found["fused"]) > {report.CAPTURED}
    assert report.finding("epilogues", {"stages": {"epilogues": {"result": {"problems": [found]}}}}).endswith(
        "; 20-24-16-4, 32: fused steps, 512 threads 62.5 ms a step, captured steps 62.5 ms"
    )


def test_the_epilogue_stage(monkeypatch):
    monkeypatch.setattr(epilogues.labs, "open_lab", gpu_lab.StandInLab)
    monkeypatch.setattr(epilogues, "problems", lambda mode: [("20-24-4", 32, "fp32"), ("20-24-4", 32, "bf16")])
    result = epilogues.run(Request(), nothing)
    assert [entry["precision"] for entry in result["problems"]] == ["fp32", "bf16"]
    assert epilogues.run(Request(seconds=1), nothing)["left_out"]
    monkeypatch.setattr(epilogues, "problems", lambda mode: [("20-24-4", 32, "fp16"), ("20-24-4", 32, "fp32")])
    result = epilogues.run(Request(), nothing)  # what is wrong with one does not end the others
    assert ([entry["precision"] for entry in result["problems"]], result["failed"]) == (["fp32"], 1)
    assert "20-24-4, batch 32, fp16: ValueError" in result["failures"][0]
    monkeypatch.setattr(
        type(gpu_lab.make_backend().device), "no_products", property(lambda device: "nvmath-python is not installed")
    )
    with pytest.raises(Absent, match="cuBLASLt is not used here: nvmath-python is not installed"):
        epilogues.measure(gpu_lab.make_backend(), "20-24-4", 32, "fp32")


def test_problems_of_the_stage_are_those_of_the_table():
    assert epilogues.problems("default")[:2] == [("784-16-16-10", 32, "fp32"), ("784-4096-4096-4096-10", 8192, "bf16")]
    assert len(epilogues.problems("all")) == 1 + 5 * 2 * 3
