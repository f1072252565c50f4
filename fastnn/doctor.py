"""What fastnn finds on this machine, and whether each engine computes correctly on it.

Nothing is assumed from version numbers alone: every usable engine runs its operations against
float64 NumPy, its matrix product from several threads at once, and steps on the matrix unit if it uses one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__, activations, optimizers
from .backends import Backend, available_backends, get_backend, install_command
from .findings import Finding, gather
from .network import Network

__all__ = ["PACKAGES", "Engine", "Report", "examine", "openblas_warnings", "self_test"]

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "mkl",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "scikit-learn",
    "matplotlib",
    "safetensors",
    "threadpoolctl",
    "typer",
    "rich",
)
# Could return wrong products, silently, when called from several threads at once.
UNSAFE_OPENBLAS = ("0.3.28", "0.3.29")
THREADS, ROUNDS = 4, 25
MATRIX_UNIT_OFF = 1e-6  # of the size of the parameters, after twelve steps; rounding alone made 9e-8
# what is timed on the unit and without it: sizes, then rows of a step; how often
UNIT_CASE, UNIT_ROUNDS, WORTH = (784, 300, 100, 10, 512), 8, 1.1


@dataclass
class Engine:
    """One engine: why it cannot be used (None if it can), how to install it ("" where that would not help), what
    its self-test found ([] is good), and what multiplies in it.
    """

    name: str
    reason: str | None
    install: str
    faults: list[str] | None
    products: str = ""
    matrix_unit: str = ""


@dataclass
class Report:
    """Everything `fastnn doctor` shows; `ok` if every usable engine passed."""

    engines: list[Engine]
    versions: dict[str, str | None]
    blas: list[dict[str, Any]]
    cpu: dict[str, Any]
    gpu: dict[str, Any]
    warnings: list[str]
    caches: list[dict[str, Any]]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """No usable engine failed its self-test."""
        return not any(engine.faults for engine in self.engines)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"fastnn": __version__, "command": "doctor", "ok": self.ok, **asdict(self)}


def examine() -> Report:
    """Look at everything; a few seconds, more where an engine compiles for the first time."""
    reasons = available_backends()
    findings, libraries, caches, devices = gather(reasons["cupy"])
    # an engine that refuses it lacks nothing else
    nonsense = {finding.problem for finding in findings if finding.subject.startswith("FASTNN_")}
    engines = [
        _examined(name)
        if reason is None
        else Engine(name, reason, "" if reason in nonsense else install_command(name), None)
        for name, reason in reasons.items()
    ]
    blas = blas_libraries()  # after the engines, which load theirs
    gpu = {"usable": reasons["cupy"] is None, "reason": reasons["cupy"], "devices": devices, "libraries": libraries}
    return Report(engines, versions(), blas, cpu(), gpu, openblas_warnings(blas), caches, findings)


def _examined(name: str) -> Engine:
    backend = get_backend(name)
    unit, faults = getattr(backend, "matrix_unit", ""), self_test(backend)  # of the CPU engine
    if getattr(backend, "no_matrix_unit", "another engine") is None and not faults:
        from .backends.cpu_unit import unit_may_be_shared  # needs Numba, which is there

        unit += f"; {worth_of_unit(*seconds_on_unit(), shared=unit_may_be_shared(None))}"
    return Engine(name, None, install_command(name), faults, backend.products, unit)


# ---- what is there ----------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Versions of Python, fastnn and the packages it can use; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "fastnn": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def blas_libraries() -> list[dict[str, Any]]:
    """BLAS and OpenMP libraries of this process with version and threads, SciPy's own among them."""
    if importlib.util.find_spec("scipy") is not None:
        import scipy.linalg  # noqa: F401 - loads its BLAS, so that it shows below
    from threadpoolctl import threadpool_info

    keys = ("user_api", "internal_api", "version", "num_threads", "threading_layer", "architecture")
    return [
        {"library": os.path.basename(entry["filepath"]), **{key: entry.get(key) for key in keys}}
        for entry in threadpool_info()
    ]


def openblas_warnings(blas: list[dict[str, Any]]) -> list[str]:
    """A sentence for each loaded OpenBLAS of a version known to go wrong."""
    return [
        f"{entry['library']} is OpenBLAS {entry['version']}, which could silently return wrong products when several "
        "threads multiply at once. "
        "Remedy: pip install --upgrade numpy scipy"
        for entry in blas
        # wheels add digits: 0.3.29.265.0
        if entry["internal_api"] == "openblas" and ".".join(str(entry["version"]).split(".")[:3]) in UNSAFE_OPENBLAS
    ]


def cpu() -> dict[str, Any]:
    """Model, cores, and the vector instructions NumPy found."""
    config = np.show_config(mode="dicts")
    features = (config or {}).get("SIMD Extensions", {})
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(), "model": _cpu_model(), "cores": os.cpu_count(), "usable_cores": usable,
        "features": [*features.get("baseline", []), *features.get("found", [])],
    }  # fmt: skip


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        return platform.processor() or None


# ---- self-test --------------------------------------------------------------------------------------


def self_test(backend: Backend) -> list[str]:
    """What this engine computes wrongly, one sentence each; an empty list is a pass.

    The four operations, the output delta and the cost, in float32 and float64, against float64 NumPy
    written out here; then one product computed by several threads at once, against the same product
    computed alone. Of the CPU engine also some training steps on the matrix unit, if it uses one.
    """
    faults: list[str] = []
    for dtype in ("float32", "float64"):
        try:
            faults += _operations(backend, dtype)
            faults += _concurrent(backend, dtype)
        except Exception as error:  # a broken installation can raise anything; the report must still come
            faults.append(f"{dtype}: {type(error).__name__}: {error}")
    if getattr(backend, "no_matrix_unit", "another engine") is None:
        try:
            faults += _matrix_unit()
        except Exception as error:
            faults.append(f"matrix unit (AMX): {type(error).__name__}: {error}")
    return faults


def _operations(backend: Backend, dtype: str) -> list[str]:
    rng = np.random.default_rng(7)
    m, n_in, n_out = 33, 70, 45
    x, W = rng.uniform(-1, 1, (m, n_in)), rng.uniform(-0.5, 0.5, (n_out, n_in))
    b, delta, y = rng.uniform(-1, 1, n_out), rng.uniform(-1, 1, (m, n_out)), rng.integers(0, n_out, m)
    # the oracle sees the rounded inputs
    x, W, b, delta = (v.astype(dtype).astype(np.float64) for v in (x, W, b, delta))
    a_, W_, b_, d_ = (backend.asarray(v.astype(dtype)) for v in (x, W, b, delta))
    z = x @ W.T + b
    z_ = backend.dense_forward(a_, W_, b_)
    eps = float(np.finfo(dtype).eps)
    sizes = {
        "dense_forward": np.abs(x) @ np.abs(W.T) + np.abs(b),
        "propagate_delta": np.abs(delta) @ np.abs(W),
        "accumulate": np.abs(delta.T) @ np.abs(x),
    }
    faults: list[str] = []

    def compare(name: str, given: Any, wanted: Any, size: Any, terms: int) -> None:
        # |error| <= c n eps sum |a||b| for a sum of n products in any order, with c = 4 for the arithmetic around it.
        host = np.asarray(backend.to_numpy(given), np.float64)
        if host.shape != np.shape(wanted) or not (np.abs(host - wanted) <= 4 * (terms + 8) * eps * (size + eps)).all():
            faults.append(f"{dtype}: {name} differs from float64 NumPy")

    compare("dense_forward", z_, z, sizes["dense_forward"], n_in)
    formulas = {
        "sigmoid": 1 / (1 + np.exp(-z)),
        "tanh": np.tanh(z),
        "relu": np.maximum(z, 0),
        "leaky_relu": np.where(z > 0, z, 0.01 * z),
        "identity": z,
    }
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    formulas["softmax"] = exp / exp.sum(axis=1, keepdims=True)
    for name in activations.ACTIVATIONS:
        if name in formulas:
            compare(f"activate({name})", backend.activate(name, z_), formulas[name], sizes["dense_forward"], n_in)
    h, h_ = formulas["softmax"], backend.activate("softmax", z_)
    y_ = backend.asarray(y.astype(np.int64))
    compare(
        "output_delta",
        backend.output_delta("softmax", "cross_entropy", z_, h_, y_),
        h - np.eye(n_out)[y],
        sizes["dense_forward"],
        n_in,
    )
    cost = -np.log(h[np.arange(m), y]).sum()
    if (
        not abs(backend.cost_sum("softmax", "cross_entropy", z_, h_, y_) - cost)
        <= 4 * (n_in + 8) * eps * sizes["dense_forward"].sum()
    ):
        faults.append(f"{dtype}: cost_sum differs from float64 NumPy")
    s = 1 / (1 + np.exp(-x))
    back = backend.propagate_delta(d_, W_, "sigmoid", a_, backend.activate("sigmoid", a_))
    compare("propagate_delta", back, (delta @ W) * s * (1 - s), sizes["propagate_delta"], n_out)
    Delta_W, Delta_b = backend.zeros((n_out, n_in), np.dtype(dtype)), backend.zeros((n_out,), np.dtype(dtype))
    for _ in range(2):  # it accumulates
        backend.accumulate(Delta_W, Delta_b, d_, a_)
    compare("accumulate", Delta_W, 2 * delta.T @ x, 2 * sizes["accumulate"], m)
    compare("accumulate (bias)", Delta_b, 2 * delta.sum(axis=0), 2 * np.abs(delta).sum(axis=0), m)
    return faults


def _matrix_unit() -> list[str]:
    """Some steps on the CPU's matrix unit, which only a training program uses, against the NumPy engine's in
    float64.
    """
    rng = np.random.default_rng(7)
    X, y = rng.uniform(-1, 1, (300, 70)).astype(np.float32), rng.integers(0, 10, 300)
    ours = Network([70, 45, 10], seed=7, backend=get_backend("numba", amx=True), dtype="float32")
    oracle = Network([70, 45, 10], seed=7, backend="numpy", dtype="float64")
    oracle.theta[...] = ours.theta
    for net in (ours, oracle):
        net.fit(X, y, optimizer="sgd", learning_rate=0.1, batch_size=100, epochs=4, seed=7)
    off = float(np.linalg.norm(ours.theta - oracle.theta) / np.linalg.norm(oracle.theta))
    if off <= MATRIX_UNIT_OFF:
        return []
    return [
        (
            f"matrix unit (AMX): parameters differ from float64 NumPy by {off:.1e} of their size after 12 steps; "
            "FASTNN_AMX=off does without it"
        )
    ]


def seconds_on_unit() -> tuple[float, float]:
    """Seconds of a step of UNIT_CASE on the matrix unit and without it: medians of rounds by turns."""
    (*sizes, batch), rng = UNIT_CASE, np.random.default_rng(7)
    X, y = rng.random((4 * batch, sizes[0]), np.float32), rng.integers(0, sizes[-1], 4 * batch)
    nets = [Network(sizes, seed=7, backend=get_backend("numba", amx=amx), dtype="float32") for amx in (True, False)]
    rules = [optimizers.SGD(1e-3) for _ in nets]
    rounds: list[list[float]] = []
    for _ in range(UNIT_ROUNDS):
        of_round = []
        for net, rule in zip(nets, rules, strict=True):
            history = net.fit(X, y, optimizer=rule, batch_size=batch, epochs=1)
            of_round.append(history.seconds[0] / 4)
        rounds.append(of_round)
    on, off = np.median(rounds[1:], axis=0)  # the first loads the kernels
    return float(on), float(off)


def worth_of_unit(on: float, off: float, *, shared: bool = False) -> str:
    """What the seconds of a step on the matrix unit and without it mean, for people."""
    *sizes, batch = UNIT_CASE
    found = (
        f"at present a step of {'-'.join(map(str, sizes))} with {batch} rows takes {on * 1e3:.2f} ms on it and "
        f"{off * 1e3:.2f} ms without"
    )
    if shared:  # plans do without it
        return found + (
            ". If that lasts, FASTNN_AMX=on is faster, which takes it for all data" if on * WORTH < off else ""
        )
    if on <= off:
        return found
    return (
        f"{found}: others who share this core seem to use it too. If that lasts, FASTNN_AMX=off is faster, or "
        "get_backend('numba', amx=False)"
    )


def _concurrent(backend: Backend, dtype: str) -> list[str]:
    """The engine's product from several threads at once, each against a float64 product; the sizes are large enough
    for BLAS to split.
    """
    rng = np.random.default_rng(11)
    jobs = []
    for k in range(THREADS):
        a, W = (rng.uniform(-1, 1, shape).astype(dtype) for shape in ((192 + 16 * k, 256), (160, 256)))
        wide = [v.astype(np.float64) for v in (a, W)]
        bound = 4 * 264 * float(np.finfo(dtype).eps) * (np.abs(wide[0]) @ np.abs(wide[1].T))
        jobs.append((backend.asarray(a), backend.asarray(W), wide[0] @ wide[1].T, bound))
    zeros = backend.zeros((160,), np.dtype(dtype))
    wrong: list[int] = []
    errors: list[BaseException] = []
    start = threading.Barrier(THREADS)

    def work(a: Any, W: Any, wanted: NDArray[Any], bound: NDArray[Any]) -> None:
        try:
            start.wait()
            for _ in range(ROUNDS):
                z = np.asarray(backend.to_numpy(backend.dense_forward(a, W, zeros)), np.float64)
                if not (np.abs(z - wanted) <= bound).all():
                    wrong.append(1)
        except Exception as error:  # carried to the calling thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return (
        [f"{dtype}: {len(wrong)} of {THREADS * ROUNDS} products computed by {THREADS} threads at once are wrong"]
        if wrong
        else []
    )


def text(report: Report) -> str:
    """The report for people."""
    lines = [f"fastnn {__version__} on Python {report.versions['python']}, {sys.platform}", "", "Engines"]
    for engine in report.engines:
        if engine.reason is not None:
            lines.append(f"  {engine.name:<7} not usable: {engine.reason}")
            lines += [f"          install: {engine.install}"] if engine.install else []
        else:
            lines.append(f"  {engine.name:<7} usable, self-test {'FAILED' if engine.faults else 'passed'}")
            lines += [f"          {fault}" for fault in engine.faults or []]
            lines += [f"          products by {engine.products}"] if engine.products else []
            lines += [f"          matrix unit (AMX): {engine.matrix_unit}"] if engine.matrix_unit else []
    lines += ["", "Packages"]
    lines += [
        f"  {name:<14} {version or 'not installed'}"
        for name, version in report.versions.items()
        if name not in ("python", "fastnn")
    ]
    lines += ["", "BLAS and threads"]
    for entry in report.blas:
        details = [
            entry["internal_api"],
            entry["version"] or "",
            entry["architecture"] or "",
            f"{entry['num_threads']} threads",
        ]
        lines.append(f"  {entry['library']}: {', '.join(d for d in details if d)}")
    lines += [
        "",
        "CPU",
        (
            f"  {report.cpu['model'] or report.cpu['machine']}, {report.cpu['usable_cores']} of {report.cpu['cores']} "
            "cores usable"
        ),
    ]
    lines.append(f"  {' '.join(report.cpu['features']) or 'no vector instructions reported'}")
    devices = report.gpu["devices"]
    lines += ["", "GPU", *(f"  {device}" for device in devices or ["none reported by the driver"])]
    lines += [f"  {name}: {version}" for name, version in report.gpu["libraries"].items()]
    lines += [
        "",
        "Caches",
        *(
            f"  {place['name']}: {place['path']}{' - ' + place['problem'] if place['problem'] else ''}"
            for place in report.caches
        ),
    ]
    if report.findings:
        lines += ["", "Problems"]
        for finding in report.findings:
            lines += [f"  {finding.subject}: {finding.problem}", f"      {finding.remedy}"]
    lines += [f"\nWARNING: {warning}" for warning in report.warnings]
    return "\n".join(lines)
