"""`fastnn doctor` names what is wrong with driver, CuPy, its libraries, memory and caches, each with its remedy."""

from __future__ import annotations

import json
import os
import re
import sys
from types import SimpleNamespace

import pytest

from fastnn import doctor, findings
from fastnn.backends import cublaslt, cupy_device


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a GPU and everything it takes; each part can be broken."""

    class Machine:
        free, total = 70e9, 80e9

        def smi(self, text):
            tool = tmp_path / "nvidia-smi"
            if text is None:
                tool.unlink(missing_ok=True)
            else:
                tool.write_text(f"#!/bin/sh\n{text}\n")
                tool.chmod(0o755)

        def memory(self):
            return self.free, self.total

        def packages(self, *names):
            monkeypatch.setattr(cupy_device, "_cupy_packages", lambda: list(names))

        def without(self, module):
            monkeypatch.setitem(sys.modules, module, None)

    made = Machine()
    made.smi("echo 'Some GPU, 81559 MiB, 580.1, 9.0'")
    made.packages("cupy-cuda13x")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    class Cuda:
        runtime = SimpleNamespace(memGetInfo=lambda: made.memory())

        # of CuPy 14 both are attributes, which load their libraries; there are no modules of these names
        cublas = property(lambda self: import_module("the cublas of CuPy"))
        nvrtc = property(lambda self: import_module("the nvrtc of CuPy"))

    modules = {
        "cupy": SimpleNamespace(cuda=Cuda()),
        "the nvrtc of CuPy": SimpleNamespace(getVersion=lambda: (13, 2)),
        "the cublas of CuPy": SimpleNamespace(__name__="cublas"),
        "nvmath.bindings.cublasLt": SimpleNamespace(get_version=lambda: 130200),
    }
    real_import, real_spec = findings.importlib.import_module, findings.importlib.util.find_spec
    broken = made.broken = {}

    def import_module(name, *rest):
        if name in broken:
            raise broken[name]
        return modules[name] if name in modules else real_import(name, *rest)

    def no_library():
        raise OSError("libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(findings.importlib, "import_module", import_module)
    monkeypatch.setattr(cublaslt, "library", no_library)
    monkeypatch.setattr(
        findings.importlib.util, "find_spec", lambda name, *rest: True if name == "cupy" else real_spec(name, *rest)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("NUMBA_CACHE_DIR", "CUPY_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return made


def found(reason=None):
    return findings.gather(reason)[0]


def only(reason=None):
    (finding,) = found(reason)
    assert "\n" not in finding.problem + finding.remedy
    return finding


def test_all_is_well(machine):
    problems, known, caches, devices = findings.gather(None)
    assert problems == []
    assert devices == ["Some GPU, 81559 MiB, 580.1, 9.0"]
    assert known == {"NVRTC": "13.2", "cuBLAS": "loaded", "cuBLASLt": "130200 through nvmath-python"}
    assert [place["name"] for place in caches] == [
        "compiled CPU code",
        "compiled CUDA kernels",
        "timed choices of matrix products",
    ]


def test_a_machine_without_gpu_lacks_nothing(machine):
    machine.smi(None)
    machine.packages()
    assert found("CuPy is not installed") == []


def test_a_gpu_without_cupy(machine):
    machine.packages()
    finding = only("CuPy is not installed")
    assert finding.problem == "a GPU is here, and CuPy is not installed"
    assert ".[cuda13]" in finding.remedy


@pytest.mark.parametrize(
    ("smi", "problem", "remedy"),
    [
        (None, "there is no nvidia-smi here", "install the NVIDIA driver"),
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
            "nvidia-smi failed with exit code 9: NVIDIA-SMI has failed",
            "reinstall",
        ),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            "the driver was replaced while it ran",
            "restart the machine",
        ),
        (
            (
                "echo 'Unable to determine the device handle for GPU0: GPU is lost.  Reboot the system to recover "
                "this GPU'; exit 15"
            ),
            "a GPU was lost",
            "dmesg",
        ),
        ("true", "nvidia-smi failed with exit code 0: nothing was said", "driver"),
    ],
)
def test_the_driver(machine, smi, problem, remedy):
    machine.smi(smi)
    finding = only("no CUDA driver was found")  # what the engine says of the same thing is not repeated
    assert finding.subject == "driver"
    assert finding.problem.startswith(problem)
    assert remedy in finding.remedy


def test_a_driver_that_hangs(machine, monkeypatch):
    machine.smi("sleep 60")
    real = findings.subprocess.run
    monkeypatch.setattr(findings.subprocess, "run", lambda *a, timeout, **k: real(*a, timeout=0.2, **k))
    assert "did not answer within 10 s" in only("-").problem


def test_two_cupy_packages(machine):
    machine.packages("cupy-cuda12x", "cupy-cuda13x")
    finding = only("2 CuPy packages are installed ...")
    assert finding.problem == "cupy-cuda12x and cupy-cuda13x are installed and overwrite each other's files"
    assert finding.remedy.startswith("pip uninstall cupy-cuda12x cupy-cuda13x; then install")


def test_what_the_engine_says_is_a_finding(machine):
    reason = (
        "the driver supports CUDA 12.4, but the installed CuPy is built for CUDA 13.2; update the driver, or install "
        "cupy-cuda12x in place of the present CuPy package"
    )
    assert only(reason).problem == reason


@pytest.mark.parametrize(
    ("name", "part", "consequence", "remedy"),
    [
        ("the nvrtc of CuPy", "NVRTC", "no kernel can be compiled", 'pip install "cupy-cuda13x[ctk]"'),
        (
            "the cublas of CuPy",
            "cuBLAS",
            "no matrix product can be computed",
            'pip install "cupy-cuda13x[ctk]"',
        ),
        ("nvmath.bindings.cublasLt", "cuBLASLt", "launched one by one", 'pip install "cupy-cuda13x[ctk]"'),
    ],
)
def test_a_library_that_is_missing(machine, name, part, consequence, remedy):
    machine.broken[name] = ImportError("libx.so.13: cannot open shared object file\nlong story")
    finding = only()
    assert finding.subject == part
    assert re.search(r"lib(x|cublasLt)\.so\.13: cannot open shared object file", finding.problem)
    assert consequence in finding.problem
    assert finding.remedy == remedy


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("No module named 'nvmath'", name="nvmath"), "is not installed"),
        (
            ModuleNotFoundError("No module named 'cuda'", name="cuda"),
            "cannot be used (ModuleNotFoundError: No module named 'cuda')",
        ),
        (
            RuntimeError("CUDA driver is not found\nlong story"),
            "cannot be used (RuntimeError: CUDA driver is not found)",
        ),
    ],
)
def test_without_nvmath_nothing_is_wrong(machine, monkeypatch, error, why):
    machine.broken["nvmath.bindings.cublasLt"] = error
    monkeypatch.setattr(cublaslt, "library", lambda: SimpleNamespace(cublasLtGetVersion=lambda: 130100))
    problems, known, *_ = findings.gather(None)
    assert problems == []
    assert known["cuBLASLt"] == f"130100 through fastnn's own binding, because nvmath-python {why}"


def test_no_memory(machine):
    machine.free = 1e9
    assert only().problem == "only 1,000 of 80,000 MB are free; other processes hold the rest"

    def gone():
        raise RuntimeError("cudaErrorIllegalAddress: gone")

    machine.memory = gone
    assert "does not say how much is free (RuntimeError: cudaErrorIllegalAddress: gone)" in only().problem


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("NUMBA_CACHE_DIR", "compiled CPU code"),
        ("CUPY_CACHE_DIR", "compiled CUDA kernels"),
        ("XDG_CACHE_HOME", "timed choices"),
    ],
)
def test_a_cache_that_cannot_be_written(machine, tmp_path, monkeypatch, variable, name):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    finding = only()
    assert finding.subject == "cache"
    assert finding.problem.startswith(name)
    assert finding.problem.endswith("file is not a folder")
    assert variable in finding.remedy
    monkeypatch.setenv(variable, str(tmp_path / "fresh" / "below"))
    assert found() == []
    assert not (tmp_path / "fresh").exists()
    monkeypatch.setattr(findings.os, "access", lambda path, mode: path != tmp_path)
    assert only_of(name).problem.endswith("cannot be written")


def only_of(name):
    return next(finding for finding in found() if finding.problem.startswith(name))


def test_the_doctor_shows_them(machine, monkeypatch):
    machine.broken["nvmath.bindings.cublasLt"] = ImportError("whatever is missing")
    monkeypatch.setattr(
        doctor, "available_backends", lambda: {"numpy": None, "numba": "-", "cupy": "no CUDA device is visible"}
    )
    report = doctor.examine()
    text = doctor.text(report)
    assert "Problems" in text
    assert "  the cupy engine: no CUDA device is visible" in text
    assert (
        "  cuBLASLt: not usable (OSError: libcublasLt.so.13: cannot open shared object file): steps cannot be captured"
    ) in text
    assert "Some GPU, 81559 MiB" in text
    plain = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert {finding["subject"] for finding in plain["findings"]} == {"the cupy engine", "cuBLASLt"}
    assert plain["gpu"]["libraries"]["NVRTC"] == "13.2"
    assert plain["ok"] is True  # every usable engine computes rightly
    assert os.environ["XDG_CACHE_HOME"] in plain["caches"][-1]["path"]
