"""Parts of the programs on panels that are compiled when a network needs them (kernels/cpu/on_demand.py). That they
compute what they should: test_programs.py.
"""

import numpy as np
import pytest

import fastnn
from fastnn import optimizers
from fastnn.backends.numba_panels import needed_parts
from fastnn.kernels.cpu import JIT
from fastnn.kernels.cpu.on_demand import ACTIVATE, DERIVATIVE, OUTPUTS, table

PARTS = {"activate": ACTIVATE, "derivative": DERIVATIVE, "outputs": OUTPUTS}
CASES = [
    ("relu", "softmax", "cross_entropy", True, 8, set()),
    ("relu", "softmax", "cross_entropy", False, 8, {"outputs"}),  # probabilities as targets
    ("relu", "identity", "squared_error", False, 8, set()),
    ("relu", "identity", "squared_error", True, 8, {"outputs"}),
    ("relu", "tanh", "squared_error", False, 8, {"outputs"}),
    ("relu", "softmax", "squared_error", True, 8, {"outputs"}),
    ("relu", "sigmoid", "cross_entropy", False, 8, {"outputs"}),
    ("tanh", "softmax", "cross_entropy", True, 8, {"activate", "derivative"}),
    ("leaky_relu", "softmax", "cross_entropy", True, 8, {"activate", "derivative"}),
    ("gelu", "softmax", "cross_entropy", True, 8, {"activate", "derivative"}),
    (("relu", "identity"), "softmax", "cross_entropy", True, 8, {"activate", "derivative"}),
    ("relu", "softmax", "cross_entropy", True, 1, {"derivative"}),
]


@pytest.mark.skipif(not JIT, reason="without JIT nothing is compiled")
@pytest.mark.parametrize(("hidden", "output", "cost", "by_class", "batch", "expected"), CASES)
def test_numba_compiles_what_a_network_needs(dtype, hidden, output, cost, by_class, batch, expected):
    net = fastnn.Network(
        [5, 8, 7, 3],
        hidden=hidden,
        output=output,
        cost=cost,
        backend=fastnn.get_backend("numba", threads=1, panels=True),
        dtype=dtype,
    )
    program = net.backend.compile(net, optimizers.Adam(), batch)
    addresses = table(net.dtype, needed_parts(net, by_class, program.batch_size))
    assert np.all(addresses[: min(PARTS.values())] != 0)
    assert {name for name, place in PARTS.items() if addresses[place]} == expected
