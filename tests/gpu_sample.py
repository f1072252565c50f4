"""Results of a GPU run as one would write them, with made-up times: something missing, something wrong, misses and
losses.
"""

from __future__ import annotations

import numpy as np

from fastnn.bench.gpu import cases
from fastnn.bench.gpu.peers import PEERS
from fastnn.bench.statistics import judge, spread

CEILINGS = {"fp32": 50e3, "tf32": 400e3, "bf16": 780e3}  # GFLOP/s
# seconds of launches, share of the ceiling
COST = {
    "captured": (8e-6, 0.86),
    "eager": (120e-6, 0.8),
    "torch": (150e-6, 0.6),
    "compile": (20e-6, 0.75),
    "jax": (25e-6, 0.7),
}


def _entry(name, case, rng):
    fixed, share = COST[name]
    seconds = {
        str(r): (fixed + case.flops / (share * CEILINGS[case.precision] * 1e9)) * float(np.exp(rng.normal(0, 0.02)))
        for r in range(5)
    }
    return {
        "status": "ok",
        "note": "",
        "rounds": seconds,
        "theta_error": 2e-5,
        "cost_error": 1e-8,
        **spread(list(seconds.values())),
    }


def sample():
    """A default run on a card that does not exist."""
    rng = np.random.default_rng(0)
    cells = {}
    for case in cases.training_cases("default"):
        cell = {
            "kind": "train",
            "net": case.net.name,
            "batch": case.batch,
            "optimizer": case.optimizer,
            "precision": case.precision,
            "flops": case.flops,
            "entrants": {name: _entry(name, case, rng) for name in PEERS},
        }
        if case.optimizer == "adam" and case.precision == "tf32":
            cell["entrants"]["compile"] = {
                "status": "hung",
                "note": "no answer to 'prepare' within 120 s; its process was ended",
            }
        judge(cell, ["captured", "eager"], None, CEILINGS[case.precision])
        cases.judge(cell, case)
        cells[case.key] = cell
    peers = {
        name: {"label": spec.label, "own": spec.own, "absent": None, "versions": {}} for name, spec in PEERS.items()
    }
    gemm = {
        precision: {
            "best": best,
            "at": "8192 x 8192 x 8192",
            "sustained": best * 0.9,
            "all": [{"m": n, "n": n, "k": n, "gflops": best * n / 8192, **spread([1e-3])} for n in (2048, 4096, 8192)],
        }
        for precision, best in CEILINGS.items()
    }
    curve = [[0.01 * (epoch + 1), 1 - 0.1 * 0.7**epoch] for epoch in range(6)]
    failure = {"test": "test_gpu::test_operations[relu]", "text": "AssertionError: off by <3e-4> & more"}
    stages = {
        "environment": (
            "ok",
            "",
            {
                "device": {"name": "A Card <B>", "compute": "9.0"},
                "card": {"driver_version": "580.1", "clocks.sm": "345", "clocks.max.sm": "1980"},
                "libraries": {"CuPy": "14.2", "cuBLASLt": "not usable: OSError: libcublasLt cannot be loaded"},
            },
        ),
        "suite": (
            "failed",
            "1 failed",
            {
                "passed": 410,
                "failed": 1,
                "groups": {
                    "device": {"status": "failed", "note": "", "passed": 410, "failed": 1, "failures": [failure]}
                },
            },
        ),
        "sanitizer": ("absent", "compute-sanitizer is not installed here", {}),
        "determinism": ("ok", "", {"failed": 0, "problems": [{"title": "20-33-4", "status": "ok", "note": ""}]}),
        "ceilings": ("ok", "", {"gemm": gemm, "copy": {"best": 4200.0, "all": []}}),
        "epilogues": (
            "crashed",
            "its process ended with signal SIGSEGV",
            {
                "problems": [
                    {
                        "net": "784-4096-4096-4096-10",
                        "batch": 8192,
                        "precision": "bf16",
                        "choice": "",
                        "layers": [
                            {"epilogues": 1e-3, "forward": 1.1e-3, "own": 1.2e-3},
                            {"epilogues": None, "own": 2e-3},
                        ],
                        "refusals": {"BGRADB NT 1x2x3": "the function answered CUBLAS_STATUS_INVALID_VALUE"},
                    }
                ]
            },
        ),
        "accuracy": (
            "ok",
            "",
            {
                "runs": {
                    "captured": [{"curve": curve, "reached": 0.06, "first_seconds": 1.0, "steps": 468}],
                    "jax": [{"status": "error", "note": "RuntimeError: no"}],
                },
                "labels": {"captured": "fastnn"},
                "goal": 0.98,
                "asked": 1.0,
                "median": 0.06,
                "verdict": "PASS",
            },
        ),
        "steps": (
            "incomplete",
            "1 left out for lack of time; --resume goes on",
            {"peers": peers, "cells": cells, "left_out": ["x"], "ceilings": CEILINGS},
        ),
    }
    return {
        "kind": "gpu",
        "schema": 1,
        "mode": "default",
        "sessions": [{"mode": "default", "environment": {"date": "2026-01-02T03:04:05+00:00"}}],
        "stages": {
            name: {"title": name, "status": status, "note": note, "result": result, "seconds": 12.3}
            for name, (status, note, result) in stages.items()
        },
    }
