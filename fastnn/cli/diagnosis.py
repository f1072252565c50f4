"""`fastnn gradcheck`, `doctor` and `example`: proof that the arithmetic is right, here and in general."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .. import __version__, activations, costs
from ..gradient_check import gradcheck as check_gradient
from ..network import Network
from .errors import FAILED, known
from .settings import BACKENDS

__all__ = ["doctor", "example", "gradcheck"]

ROWS, SIZES = 12, (5, 7, 6, 4)


def doctor(*, as_json: bool) -> int:
    """Run the command; 1 if a usable engine failed its self-test."""
    from ..doctor import examine, text

    report = examine()
    print(json.dumps(report.as_json(), allow_nan=False) if as_json else text(report))
    return 0 if report.ok else FAILED


def example(*, as_json: bool) -> None:
    """Run the command."""
    from dataclasses import asdict

    from ..worked_example import run, text

    result = run()
    print(
        json.dumps({"fastnn": __version__, "command": "example", **asdict(result)}, allow_nan=False)
        if as_json
        else text(result)
    )


def gradcheck(backend: str, seed: int, *, as_json: bool) -> int:
    """Run the command; 1 if a gradient is wrong."""
    known("--backend", backend, BACKENDS)
    if seed < 0:
        raise ValueError(f"--seed must be an integer >= 0, got {seed}")
    possible = [name for name, g in activations.ACTIVATIONS.items() if not g.output_only]
    rows: list[dict[str, Any]] = []
    engine = reason = ""
    for hidden in possible:
        for output, cost in pairs():
            net = Network(
                SIZES, hidden=hidden, output=output, cost=cost, l2=0.1, backend=backend, dtype="float64", seed=seed
            )
            engine, reason = net.backend.name, net.backend_reason
            X, y = _data(net, seed)
            report = check_gradient(net, X, y, verbose=False)
            rows.append(
                {
                    "hidden": hidden,
                    "output": output,
                    "cost": cost,
                    "max_relative_error": report.max_relative_error,
                    "kinks": len(report.kinks),
                    "worst": report.worst,
                    "ok": report.ok,
                }
            )
    ok = all(row["ok"] for row in rows)
    if as_json:
        print(
            json.dumps(
                {
                    "fastnn": __version__,
                    "command": "gradcheck",
                    "engine": {"backend": engine, "reason": reason},
                    "ok": ok,
                    "checks": rows,
                },
                allow_nan=False,
            )
        )
    else:
        print(f"engine {reason}; {'-'.join(map(str, SIZES))} units, {ROWS} rows, L2, float64, seed {seed}")
        print(f"{'hidden':<12}{'output':<12}{'cost':<15}{'largest ||D - N|| / (||D|| + ||N||)':>37}  at a kink")
        for row in rows:
            failure = "" if row["ok"] else f"  FAILED: {row['worst']}"
            print(
                f"{row['hidden']:<12}{row['output']:<12}{row['cost']:<15}"
                f"{row['max_relative_error']:>37.1e}{row['kinks']:>11d}{failure}"
            )
        print("every gradient agrees with central differences" if ok else "FAILED: a gradient is wrong")
    return 0 if ok else FAILED


def pairs() -> list[tuple[str, str]]:
    """Every output and cost that fit together."""
    found = []
    for output in activations.ACTIVATIONS:
        for cost in costs.COSTS:
            try:
                costs.pair(activations.get(output), cost)
            except ValueError:
                continue
            found.append((output, cost))
    return found


def _data(net: Network, seed: int) -> tuple[Any, Any]:
    """Random rows and targets of the kind the pair takes."""
    rng = np.random.default_rng([seed, 3])
    X = rng.normal(size=(ROWS, net.sizes[0]))
    if net.pair.targets == "classes":
        return X, rng.integers(0, net.sizes[-1], ROWS)
    return X, rng.uniform(0.1, 0.9, (ROWS, net.sizes[-1]))
