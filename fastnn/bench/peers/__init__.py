"""The libraries compared: one row each, with where its driver lives and what it can do.

A driver is imported by the worker process alone; this table imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PEERS", "Spec"]


@dataclass(frozen=True)
class Spec:
    """One competitor.

    Attributes
    ----------
    driver : str
        "module:Class" of a `fastnn.bench.peers.base.Peer`.
    distributions : tuple of str
        What it uses where it is installed, for the installed size; the first is the library itself.
    own : bool
        An engine of fastnn: it is compared, and not a peer that others are compared with.
    variant : bool
        One of fastnn's engines held to what other machines have: timed beside it in every cell, and nothing else.
    sweep : bool
        Timed with one thread and with all cores, the better kept; otherwise it chooses by itself.
    does : frozenset of str
        "train" and "predict".
    imports : str
        The statement whose time is the import time.
    """

    name: str
    label: str
    driver: str
    distributions: tuple[str, ...]
    imports: str
    own: bool = False
    variant: bool = False
    sweep: bool = True
    does: frozenset[str] = frozenset({"train", "predict"})


def _module(name: str) -> str:
    return f"fastnn.bench.peers.{name}"


PEERS = {
    spec.name: spec
    for spec in (
        Spec(
            "numba",
            "fastnn (Numba)",
            f"{_module('fastnn_peer')}:Numba",
            ("fastnn-backends", "numba", "scipy", "mkl"),
            "import fastnn",
            own=True,
            sweep=False,
        ),
        Spec(
            "vectors",
            "fastnn (vectors)",
            f"{_module('fastnn_peer')}:Vectors",
            ("fastnn-backends", "numba", "scipy", "mkl"),
            "import fastnn",
            own=True,
            variant=True,
            sweep=False,
        ),
        Spec(
            "unit",
            "fastnn (matrix unit)",
            f"{_module('fastnn_peer')}:Unit",
            ("fastnn-backends", "numba", "scipy", "mkl"),
            "import fastnn",
            own=True,
            variant=True,
            sweep=False,
        ),
        Spec(
            "numpy",
            "fastnn (NumPy)",
            f"{_module('fastnn_peer')}:Numpy",
            ("fastnn-backends",),
            "import fastnn",
            own=True,
        ),
        Spec(
            "sklearn",
            "scikit-learn",
            f"{_module('sklearn_peer')}:Sklearn",
            ("scikit-learn",),
            "import sklearn.neural_network",
        ),
        Spec("torch", "PyTorch", f"{_module('torch_peer')}:Eager", ("torch",), "import torch"),
        Spec("compile", "torch.compile", f"{_module('torch_peer')}:Compiled", ("torch",), "import torch"),
        Spec("jax", "JAX", f"{_module('jax_peer')}:Jax", ("jax", "jaxlib"), "import jax"),
        Spec(
            "onnx",
            "ONNX Runtime",
            f"{_module('onnx_peer')}:Onnx",
            ("onnxruntime", "onnx"),
            "import onnxruntime",
            does=frozenset({"predict"}),
        ),
    )
}
