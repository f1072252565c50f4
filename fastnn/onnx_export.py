"""A trained network as an ONNX model, for whatever runs those: ONNX Runtime, browsers, phones. Needs the package onnx
(extra `onnx`), which is imported when first used.

Plain operators alone (Gemm, Relu, Tanh, ..., Softmax; opset 17), so that small runtimes read it too; GELU of float64
goes through an Erf of float32, which alone they have (1e-7). What was done to
the data in training is part of the graph: the factor of integers such as pixels, and for a network that `fastnn train`
trained on a table the scaling of its columns and of the target.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import files
from .activations import Activation
from .data import features, preprocessing
from .errors import pip_install, unknown_name

if TYPE_CHECKING:
    from .network import Network

__all__ = ["export_onnx"]

OPSET, IR_VERSION = 17, 8
INTEGERS = ("uint8", "uint16", "int32")
LARGEST = 2**31 - 2**20  # bytes: what a protobuf holds
OPERATORS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "softmax": "Softmax",
    "exp": "Exp",
}


def export_onnx(net: Network, path: str | os.PathLike[str], *, data_dtype: Any = None) -> None:
    """Write `net` to `path` in one move.

    The model's input is "X" (rows, s_1): of the network's dtype; integers where the network scales those (`scale`); for
    a table double, the columns as in the file, in the order of the metadata "features", with categories as 0 and 1.
    Outputs: "probabilities" (rows, K) and "label", int64, (rows,) for softmax and (rows, K) for sigmoid with
    cross_entropy; else "values" (rows, K), in the units of the table where there is one.

    Parameters
    ----------
    net : Network
    path : path
        Ends in .onnx.
    data_dtype : "uint8", "uint16" or "int32", optional
        Of the integers, where the network scales them: uint8 if they fit, 1/scale being at most 255, else int32.

    Raises
    ------
    ImportError
        The package onnx is missing.
    TypeError
        `path` is not a path.
    ValueError
        Another ending; more parameters than the format holds (2 GiB); a data_dtype that is not known, or for a network
        that scales no integers.
    OSError
        The file cannot be written; one already there is untouched.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or os.PathLike, the name of a model file, got {path!r}")
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"path={str(path)!r}: an ONNX model's name must end in '.onnx', got {path.suffix!r}")
    if net.theta.nbytes > LARGEST:
        raise ValueError(f"the network has {net.theta.nbytes:,} bytes of parameters; an ONNX file holds {LARGEST:,}")
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            f"export_onnx needs onnx, which cannot be imported ({error}): {pip_install('onnx')}"
        ) from None
    model = _Graph(onnx, net, _integers(net, data_dtype)).model()
    onnx.checker.check_model(model, full_check=True)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: the folder {str(path.parent)!r} does not exist")
    files.replace(path, model.SerializeToString(deterministic=True))


def _integers(net: Network, data_dtype: Any) -> str | None:
    """The name of the input's dtype where the network scales integers."""
    if net.scale is None:
        if data_dtype is not None:
            raise ValueError(f"data_dtype={data_dtype!r} is for networks that scale integers, and this one does not")
        return None
    if data_dtype is None:
        return "uint8" if round(1 / net.scale) <= 255 else "int32"
    if data_dtype not in INTEGERS:
        raise unknown_name("data_dtype", data_dtype, INTEGERS)
    return str(data_dtype)


class _Graph:
    """The nodes of one network, added one after another; `at` is the name of what the last one gives."""

    def __init__(self, onnx: Any, net: Network, integers: str | None) -> None:
        self.onnx, self.net, self.integers = onnx, net, integers
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.at = "X"
        table = net.preprocessing if net.preprocessing and net.preprocessing.get("kind") == "table" else None
        self.table = table and preprocessing.of(net)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> None:
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, [self.at, *inputs], [name], **attributes))
        self.at = name

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def model(self) -> Any:
        net, helper, types = self.net, self.onnx.helper, self.onnx.TensorProto
        real = types.FLOAT if net.dtype == np.float32 else types.DOUBLE
        self._prepare(real)
        for layer, g in enumerate(net.activations):
            W, b = (np.array(net.backend.to_numpy(part[layer])) for part in (net.weights, net.biases))
            self.add("Gemm", self.constant(f"W{layer + 2}", W), self.constant(f"b{layer + 2}", b), transB=1)
            self._activate(g)
        outputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in self._answers(real)]
        data = helper.make_tensor_value_info(
            "X",
            getattr(types, self.integers.upper())
            if self.integers
            else types.DOUBLE
            if self.table is not None
            else real,
            ["rows", net.sizes[0]],
        )
        graph = helper.make_graph(self.nodes, "fastnn", [data], outputs, initializer=self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fastnn"
        )
        helper.set_model_props(model, self._properties())
        return model

    def _prepare(self, real: int) -> None:
        """What is done to data before the first layer."""
        net = self.net
        if net.scale is not None:
            self.add("Cast", to=real)
            self.add("Mul", self.constant("scale", np.array(net.scale, net.dtype)))
        if self.table is None:
            return
        # in double, of which float32 would lose the digits that tell large numbers apart, such as dates
        mean, factor = (np.array(self.table[f"feature_{name}"], np.float64) for name in ("mean", "factor"))
        self.add("Sub", self.constant("feature_mean", mean))
        self.add("Mul", self.constant("feature_factor", factor))
        if self.table.get("missing") == "mean":
            scaled = self.at
            self.add("IsNaN")
            gone = self.at
            self.nodes.append(
                self.onnx.helper.make_node("Where", [gone, self.constant("nothing", np.zeros(())), scaled], ["filled"])
            )
            self.at = "filled"
        self.add("Cast", to=real)

    def _activate(self, g: Activation) -> None:
        if g.name == "leaky_relu" and self.net.dtype == np.float64:  # LeakyRelu's own slope is float32
            self.add("PRelu", self.constant(f"slope{len(self.nodes)}", np.array([g.parameter])))
        elif g.of_z:
            z = self.at
            if g.name == "silu":
                self.add("Sigmoid")
            else:  # Phi(z); the operator Gelu is younger than OPSET
                root, one, half = (
                    self.constant(f"{name}{len(self.nodes)}", np.array(number, self.net.dtype))
                    for name, number in (("root", 0.5**0.5), ("one", 1), ("half", 0.5))
                )
                self.add("Mul", root)
                double = self.net.dtype == np.float64
                if double:  # for which ONNX Runtime has no Erf
                    self.add("Cast", to=self.onnx.TensorProto.FLOAT)
                self.add("Erf")
                if double:
                    self.add("Cast", to=self.onnx.TensorProto.DOUBLE)
                self.add("Add", one)
                self.add("Mul", half)
            self.add("Mul", z)
        elif g.name in OPERATORS:
            attributes: dict[str, dict[str, Any]] = {"leaky_relu": {"alpha": g.parameter}, "softmax": {"axis": 1}}
            self.add(OPERATORS[g.name], **attributes.get(g.name, {}))

    def _answers(self, real: int) -> list[tuple[str, int, list[Any]]]:
        """Names the outputs: (name, type, shape) of each."""
        net, integer = self.net, self.onnx.TensorProto.INT64
        K, soft = net.sizes[-1], net.output.name == "softmax"
        if not soft and net.pair.targets != "probabilities":
            if self.table is not None and self.table["task"] == "regression":
                spread, mean = (np.array(self.table[f"target_{name}"], np.float64) for name in ("std", "mean"))
                real = self.onnx.TensorProto.DOUBLE
                self.add("Cast", to=real)
                self.add("Mul", self.constant("target_std", spread))
                self.add("Add", self.constant("target_mean", mean))
            self._name("values")
            return [("values", real, ["rows", K])]
        self._name("probabilities")
        if soft:
            self.add("ArgMax", axis=1, keepdims=0)
        else:
            self.add("GreaterOrEqual", self.constant("half", np.array(0.5, net.dtype)))
            self.add("Cast", to=integer)
        self._name("label")
        return [("probabilities", real, ["rows", K]), ("label", integer, ["rows"] if soft else ["rows", K])]

    def _name(self, name: str) -> None:
        """Calls what the last node gives by this name."""
        self.nodes[-1].output[0] = self.at = name

    def _properties(self) -> dict[str, str]:
        net = self.net
        found: dict[str, Any] = {"sizes": list(net.sizes), "cost": net.cost}
        if net.preprocessing and net.preprocessing.get("classes") is not None:
            found["classes"] = net.preprocessing["classes"]
        if self.table is not None:
            found["features"] = features.feature_names(self.table["columns"], self.table.get("categories", {}))
            found["target"] = self.table["target"]
        return {name: json.dumps(value) for name, value in found.items()}
