"""Results of a comparison as a run would write them, with made-up times; covers every section of report and page."""

from __future__ import annotations

import math

import numpy as np

from fastnn.bench import cases
from fastnn.bench.peers import PEERS
from fastnn.bench.statistics import judge, spread

COST = {
    "numba": (3e-6, 0.9),
    "vectors": (2e-6, 0.45),
    "unit": (2e-6, 0.5),
    "numpy": (120e-6, 0.8),
    "sklearn": (140e-6, 0.7),
    "torch": (220e-6, 0.75),
    "compile": (90e-6, 0.8),
    "jax": (6e-6, 0.85),
    "onnx": (5e-6, 0.8),
}


def _entry(name, flops, rng, rounds=5):
    overhead, share = COST[name]
    if name in ("vectors", "unit"):  # the others' draws stay what they were
        rng = np.random.default_rng(1 if name == "vectors" else 2)
    base = overhead + flops / (share * 180e9)
    seconds = {str(r): base * float(np.exp(rng.normal(0, 0.04))) for r in range(rounds)}
    return {
        "status": "ok",
        "note": "",
        "threads": 2,
        "choice": "",
        "swept": {"1": base * 1.3, "2": base},
        "rounds": seconds,
        "theta_error": 3e-6,
        "cost_error": 1e-8,
        "mean_cost": 2.3,
        "final_cost": 2.2,
        "preparation_seconds": 0.4,
        **spread(list(seconds.values())),
    }


def sample():
    """A full run in which one library is absent, one disagrees once and one crashes once."""
    rng = np.random.default_rng(0)
    names = [name for name in PEERS if name != "onnx"]
    units = {}
    for case in cases.training_cases("default"):
        cell = {
            "kind": "train",
            "net": case.net.name,
            "batch": case.batch,
            "optimizer": case.optimizer,
            "flops": case.flops,
            "bytes": case.bytes,
            "steps": 500,
            "entrants": {name: _entry(name, case.flops, rng) for name in names},
            "busy_rounds": [2] if case.batch == 8 else [],
        }
        judge(cell, ["numba", "vectors", "unit", "numpy"], cases.target(case), 200.0)
        units[case.key] = cell
    broken = units["train/784-30-10@32@sgd"]
    broken["entrants"]["compile"] |= {
        "status": "disagrees",
        "note": "parameters are off by 2.3e-01 of the way they went (allowed 2e-02)",
    }
    broken["entrants"]["sklearn"] = {
        "status": "crashed",
        "note": "its process ended with signal SIGSEGV: <no words & no reason>",
    }
    for case in cases.predict_cases("default"):
        cell = {
            "kind": "predict",
            "net": case.net.name,
            "batch": case.rows,
            "flops": case.flops,
            "entrants": {name: _entry(name, case.flops, rng) for name in names},
            "busy_rounds": [],
        }
        for entry in cell["entrants"].values():
            del entry["theta_error"]
        judge(cell, ["numba", "vectors", "unit", "numpy"], cases.predict_target(case), None)
        units[case.key] = cell
    for name in names:
        units[f"size/{name}"] = {"total": 3.2e8, "parts": {}}
        units[f"import/{name}"] = {"library": spread([0.2, 0.3]), "numpy": spread([0.1])}
        units[f"startup/{name}"] = {"cold": 6.0, "warm": spread([0.7, 0.8])}
        units[f"memory/{name}"] = {"peak": 4.1e8, "rows": 1.9e8}
        for seed in range(3):
            epochs = np.arange(1, 6)
            pace = 0.4 * (1 + 0.3 * list(PEERS).index(name))
            curve = [[pace * int(e), 1 - 0.09 * math.exp(-0.3 * e) + 0.002 * float(rng.normal())] for e in epochs]
            units[f"accuracy/{seed}/{name}"] = {
                "curve": curve,
                "reached": curve[-1][0] if curve[-1][1] >= 0.975 else None,
                "first_seconds": 1.0,
                "steps": 468,
            }
    peers = {
        name: {
            "label": spec.label,
            "own": spec.own,
            "sweep": spec.sweep,
            "does": sorted(spec.does),
            "versions": {"numpy": "2.4.6"},
            "absent": "ModuleNotFoundError: No module named 'onnxruntime'" if name == "onnx" else None,
        }
        for name, spec in PEERS.items()
    }
    environment = {
        "date": "2026-01-02T03:04:05+00:00",
        "cpu": "A <CPU> & Co",
        "flags": ["avx2"],
        "cores": 2,
        "memory": 1 << 34,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "fastnn": "0.1.0",
        "numpy": "2.4.6",
        "blas": [{"internal_api": "openblas", "version": "0.3.31", "architecture": "SkylakeX"}],
        "load": [0.1, 0.2, 0.3],
        "variables": {},
    }
    session = {
        "environment": environment,
        "finished": "2026-01-02T03:34:05+00:00",
        "load_after": [1.0, 1.0, 1.0],
        "ceiling": {"best": 200.0, "by": "numpy, 2 threads, 2048^3", "all": {}, "bandwidth": 15.0},
    }
    return {
        "schema": 1,
        "mode": "default",
        "sessions": [session],
        "peers": peers,
        "units": units,
        "skipped": {"accuracy/3/jax": "out of time; --resume measures it"},
    }
