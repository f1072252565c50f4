"""ONNX Runtime, for inference alone: one Gemm and one activation node per layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Net
from ..problem import Problem, split
from .base import Array, Peer

__all__ = ["Onnx"]


class Onnx(Peer):
    """The CPU provider with all its graph optimizations."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnx
        import onnxruntime

        self.onnx: Any = onnx
        self.runtime: Any = onnxruntime

    def load(self, problem: Problem) -> None:
        raise NotImplementedError("ONNX Runtime is compared in inference only")

    def reset(self, theta: Array) -> None:
        raise NotImplementedError

    def run(self, start: int, stop: int) -> float:
        raise NotImplementedError

    def theta(self) -> Array:
        raise NotImplementedError

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        helper, constant = self.onnx.helper, self.onnx.numpy_helper.from_array
        FLOAT, layers = self.onnx.TensorProto.FLOAT, split(net, theta)
        nodes, weights, at = [], [], "x"
        for number, (W, b) in enumerate(layers):
            weights += [constant(np.ascontiguousarray(W.T), f"W{number}"), constant(b.copy(), f"b{number}")]
            nodes.append(helper.make_node("Gemm", [at, f"W{number}", f"b{number}"], [f"z{number}"]))
            at = f"z{number}"
            if number < len(layers) - 1:
                nodes.append(helper.make_node("Relu" if net.hidden == "relu" else "Tanh", [at], [f"a{number}"]))
                at = f"a{number}"
        if net.classes:
            nodes.append(helper.make_node("Softmax", [at], ["h"], axis=1))
            at = "h"
        ends = [
            [helper.make_tensor_value_info(name, FLOAT, ["m", size])]
            for name, size in (("x", net.sizes[0]), (at, net.sizes[-1]))
        ]
        graph = helper.make_graph(nodes, "dense", *ends, initializer=weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = self.runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.call, self.names, self.feed = session.run, [at], {"x": np.ascontiguousarray(x)}

    def predict(self) -> Any:
        return self.call(self.names, self.feed)[0]

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "onnxruntime": self.runtime.__version__, "onnx": self.onnx.__version__}
