"""What may be set of a network, what it starts from, its mean cost, and which engine it looks for."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn import backends
from fastnn.backends import _load as load


def test_a_small_network_does_not_even_look_for_a_gpu(monkeypatch):
    """To import CuPy opens the device: a second, and a part of its memory."""
    asked = []
    monkeypatch.setattr(backends, "_load", lambda name: asked.append(name) or load(name))
    fastnn.Network([2, 2])
    assert "cupy" not in asked
    fastnn.Network([1000, 1000])
    assert "cupy" in asked


def test_the_mean_cost_with_and_without_l2(backend):
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 3)), rng.integers(0, 2, 60)
    net = fastnn.Network([3, 4, 2], backend=backend, l2=5.0, dtype="float64")
    history = net.fit(X[:50], y[:50], validation=(X[50:], y[50:]), epochs=2, batch_size=10)
    assert net.mean_cost(X[50:], y[50:], l2=False) == pytest.approx(history.val_cost[-1], rel=1e-12)
    assert net.mean_cost(X, y) == pytest.approx(net.cost_and_gradient(X, y)[0], rel=1e-12)
    weights = sum(float((W**2).sum()) for W in map(backend.to_numpy, net.weights))
    assert net.mean_cost(X, y) - net.mean_cost(X, y, l2=False) == pytest.approx(5 / (2 * 60) * weights)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("precision", "bf16", AttributeError, r"net\.precision is fixed"),
        ("backend", "numpy", AttributeError, r"net\.backend is fixed"),
        ("scale", -1.0, ValueError, r"scale must be a finite number > 0, got -1\.0"),
        ("scale", "0.1", TypeError, "scale must be a finite number > 0"),
        ("epochs_trained", -3, ValueError, "epochs_trained must be an integer >= 0, got -3"),
        ("epochs_trained", 1.5, TypeError, r"epochs_trained must be an integer >= 0, got 1\.5"),
    ],
)
def test_an_attribute_is_checked_where_it_is_set(name, value, error, words):
    """What is let in here would be refused later, by `load` of a file that `save` wrote."""
    net = fastnn.Network([2, 2], backend="numpy")
    before = getattr(net, name)
    with pytest.raises(error, match=words):
        setattr(net, name, value)
    assert getattr(net, name) is before


@pytest.mark.parametrize("copied", ["get", "cpu", "copy_to_host", "__array__"])
def test_parameters_to_start_from_may_lie_on_a_gpu(copied):
    class OnDevice:
        def __init__(self, array):
            setattr(type(self), copied, lambda self, *_, **__: array)

        def __dlpack_device__(self):
            return 2, 0

        def __len__(self):
            return len(getattr(self, copied)())

    net = fastnn.Network([2, 3, 2], seed=5, backend="numpy")
    other = fastnn.Network([2, 3, 2], init=OnDevice(net.theta), backend="numpy")
    np.testing.assert_array_equal(other.theta, net.theta)
    weights = [OnDevice(net.weights[0]), net.weights[1]]
    if copied != "__array__":  # the class has one array
        weights[0] = type("Mine", (OnDevice,), {})(net.weights[0])
    third = fastnn.Network([2, 3, 2], init=[weights, list(net.biases)], backend="numpy")  # a list is a pair as well
    np.testing.assert_array_equal(third.theta, net.theta)


def test_a_precision_that_is_not_known_where_it_is_unpickled_is_left_with_a_warning():
    net = fastnn.Network([2, 3, 2], backend="numpy")
    state = {**net.__getstate__(), "precision": "bf16"}
    other = fastnn.Network.__new__(fastnn.Network)
    with pytest.warns(
        UserWarning, match=r"precision='bf16', in which the network was trained, is not one of the numpy"
    ):
        other.__setstate__(state)
    assert other.precision == "fp32"
    np.testing.assert_array_equal(other.theta, net.theta)
