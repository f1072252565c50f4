"""The drivers of the GPU run, on the CPU where their libraries are installed: the same steps as the float64 run at
every precision.
"""

from __future__ import annotations

import importlib.util

import gpu_lab
import pytest

from fastnn.bench import oracle, problem
from fastnn.bench.cases import Case, net_named
from fastnn.bench.gpu import engine


def torch_eager():
    from fastnn.bench.gpu.peers import torch_peer

    return type("OnCpu", (torch_peer.Eager,), {"device": "cpu"})


def torch_compiled():
    from fastnn.bench.gpu.peers import torch_peer

    return type("OnCpu", (torch_peer.Compiled,), {"device": "cpu", "compile_mode": "default"})


def jax():
    from fastnn.bench.gpu.peers import jax_peer

    return type("OnCpu", (jax_peer.Jax,), {"platform": "cpu"})


def check(peer, optimizer, precision):
    made = problem.make(Case(net_named("20-33-17-4"), 16, optimizer, precision), rows=200, steps=40)
    run = oracle.train(made)
    peer.load(made)
    for _ in range(2):  # the second run begins where the first did
        peer.reset(made.theta)
        cost = peer.run(0, made.steps)
        errors = oracle.differences(made, run, peer.theta(), cost)
        assert oracle.disagreement(optimizer, *errors, precision) is None, errors
    return errors


@pytest.mark.parametrize(
    ("library", "make"),
    [("torch", torch_eager), ("torch", torch_compiled), ("jax", jax)],
    ids=["torch", "compile", "jax"],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_other_libraries(library, make, optimizer):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed here; `make bench` installs it")
    peer = make()(1)
    for precision in ("fp32", "tf32", "bf16"):
        errors = check(peer, optimizer, precision)
        if precision == "bf16":
            assert errors[0] > 1e-4  # it was really rounded


@pytest.mark.parametrize("mode", engine.MODES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fastnn_over_the_stand_in(optimizer, mode):
    peer = {"captured": gpu_lab.Captured, "eager": gpu_lab.Eager}[mode](1)
    check(peer, optimizer, "fp32")
    assert mode in peer.describe()


def test_outputs_of_fastnn():
    import numpy as np

    peer, net = gpu_lab.Eager(1), net_named("20-33-17-4")
    x, theta = np.random.default_rng(0).random((5, 20), np.float32), problem.initial_theta(net)
    peer.load_network(net, theta, x)
    z = oracle.forward(net, theta, x)[-1]
    h = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(peer.predict()), h, rtol=1e-5)
