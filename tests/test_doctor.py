"""`fastnn doctor`: its self-test finds faults that are planted, and its report is complete."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from amx_tools import needs_unit

import fastnn
from fastnn import doctor
from fastnn.backends.numpy_backend import NumpyBackend


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_healthy_engines_pass(name):
    assert doctor.self_test(fastnn.get_backend(name)) == []


class WrongForward(NumpyBackend):
    def _dense_forward(self, a, W, b, out):
        out = super()._dense_forward(a, W, b, out)
        out[0, 0] *= 1 + 1e-3
        return out


class WrongBack(NumpyBackend):
    def _propagate_delta(self, delta, W, activation, z, a, out):
        out[...] = delta @ W  # g' forgotten
        return out


class OverwritesDelta(NumpyBackend):
    def _accumulate(self, Delta_W, Delta_b, delta, a):
        Delta_W[...] = delta.T @ a
        Delta_b[...] = delta.sum(axis=0)


class NotAProduct(NumpyBackend):
    def _dense_forward(self, a, W, b, out):
        out[...] = np.nan
        return out


class WrongWhenConcurrent(NumpyBackend):
    busy = threading.Semaphore(1)

    def _dense_forward(self, a, W, b, out):
        alone = self.busy.acquire(blocking=False)
        out = super()._dense_forward(a, W, b, out)
        threading.Event().wait(0.0005)
        if alone:
            self.busy.release()
        else:
            out[-1] = 0
        return out


class Broken(NumpyBackend):
    def _activate(self, activation, z, out):
        raise RuntimeError("no such symbol")


@pytest.mark.parametrize(("engine", "fault"), [
    (WrongForward, "dense_forward differs"),
    (WrongBack, "propagate_delta differs"),
    (OverwritesDelta, "accumulate differs"),
    (NotAProduct, "dense_forward differs"),
    (WrongWhenConcurrent, "threads at once are wrong"),
    (Broken, "RuntimeError: no such symbol"),
])  # fmt: skip
def test_planted_faults_are_found(engine, fault):
    faults = doctor.self_test(engine())
    assert any(fault in line for line in faults), faults


def test_a_matrix_unit_that_computes_wrongly_is_found(monkeypatch):
    """The unit is used by training programs alone, so steps are compared."""
    engine = fastnn.get_backend("numba")
    monkeypatch.setattr(engine, "no_matrix_unit", None)

    class Network(fastnn.Network):
        def fit(self, *args, **options):
            if self.dtype == np.float32:
                options["learning_rate"] *= 1.001
            return super().fit(*args, **options)

    assert doctor.self_test(engine) == [] or engine.matrix_unit.startswith("not used")
    monkeypatch.setattr("fastnn.doctor.Network", Network)
    assert any("matrix unit (AMX): " in line for line in doctor.self_test(engine))


def test_what_the_matrix_unit_is_worth_is_said():
    assert doctor.worth_of_unit(0.0012, 0.002) == (
        "at present a step of 784-300-100-10 with 512 rows takes 1.20 ms on it and 2.00 ms without"
    )
    slow = doctor.worth_of_unit(0.003, 0.002)
    assert "takes 3.00 ms on it and 2.00 ms without: others who share this core" in slow
    assert "FASTNN_AMX=off is faster, or get_backend('numba', amx=False)" in slow
    # plans do without it where others may be on it
    assert doctor.worth_of_unit(0.003, 0.002, shared=True).endswith("3.00 ms on it and 2.00 ms without")
    assert doctor.worth_of_unit(0.0012, 0.002, shared=True).endswith(
        ". If that lasts, FASTNN_AMX=on is faster, which takes it for all data"
    )


@needs_unit
def test_the_matrix_unit_is_timed_beside_other_programs():
    with_unit, without = doctor.seconds_on_unit()
    assert 0 < with_unit < 1
    assert 0 < without < 1


def test_openblas_versions_known_to_go_wrong():
    def library(version, internal="openblas"):
        return {"library": "libscipy_openblas.so", "internal_api": internal, "version": version}

    found = doctor.openblas_warnings(
        [
            library("0.3.28"),
            library("0.3.29.265.0"),
            library("0.3.30"),
            library("0.3.31.188.0"),
            library("0.3.28", "mkl"),
            library(None),
        ]
    )
    assert len(found) == 2
    assert all("pip install --upgrade" in line for line in found)


def test_report_names_both_blas_libraries_and_every_engine():
    report = doctor.examine()
    assert [engine.name for engine in report.engines] == ["numpy", "numba", "cupy"]
    assert report.ok
    assert len([entry for entry in report.blas if entry["user_api"] == "blas"]) >= 2  # NumPy's and SciPy's
    assert report.versions["numpy"] == np.__version__
    assert report.cpu["usable_cores"] >= 1
    json.dumps(report.as_json(), allow_nan=False)
    page = doctor.text(report)
    assert f"products by {fastnn.get_backend('numba').products}" in page
    for word in (
        "Engines",
        "numba",
        "BLAS and threads",
        "CPU",
        "GPU",
        "Caches",
        *(f"  {name}" for name in doctor.PACKAGES),
    ):
        assert word in page


def test_unusable_engines_show_reason_and_command(monkeypatch):
    monkeypatch.setattr(
        doctor,
        "available_backends",
        lambda: {"numpy": None, "numba": "Numba cannot be imported", "cupy": "no CUDA driver"},
    )
    report = doctor.examine()
    page = doctor.text(report)
    assert "not usable: Numba cannot be imported" in page
    assert 'pip install ".[cpu]"' in page
    assert report.engines[1].faults is None
    assert report.ok


@pytest.mark.parametrize(
    ("variable", "value", "problem", "others"),
    [
        ("FASTNN_BLAS", "foo", "FASTNN_BLAS='foo' is not known. Known: mkl, scipy.", "scipy"),
        ("FASTNN_BLAS", "scipy", None, "scipy"),
        ("FASTNN_AMX", "12", "FASTNN_AMX='12' is not known. Known: on, off.", "on or off"),
    ],
)
def test_nonsense_in_a_variable_is_a_finding_and_the_rest_is_examined(variable, value, problem, others):
    """In a process of its own, because a process chooses its BLAS once."""
    command = [sys.executable, "-m", "fastnn", "doctor", "--json"]
    done = subprocess.run(
        command, env={**os.environ, variable: value}, capture_output=True, text=True, timeout=300, check=True
    )
    report = json.loads(done.stdout)
    found = [finding for finding in report["findings"] if finding["subject"] == variable]
    numpy, numba, _ = report["engines"]
    assert numpy["faults"] == []
    if problem is None:
        assert (found, numba["reason"], numba["faults"]) == ([], None, [])
    else:
        assert found[0]["problem"] == numba["reason"] == f"environment variable {problem}"
        assert found[0]["remedy"].startswith(f"unset {variable}, or set it to {others}")
        assert (numba["install"], numba["faults"]) == ("", None)


def test_a_failed_self_test_shows(monkeypatch):
    monkeypatch.setattr(doctor, "self_test", lambda backend: ["float32: dense_forward differs from float64 NumPy"])
    monkeypatch.setattr(doctor, "available_backends", lambda: {"numpy": None, "numba": "-", "cupy": "-"})
    monkeypatch.setattr(doctor, "openblas_warnings", lambda blas: ["old OpenBLAS"])
    report = doctor.examine()
    assert not report.ok
    page = doctor.text(report)
    assert "FAILED" in page
    assert "WARNING: old OpenBLAS" in page
