"""Errors as they travel: by pickle from the workers of a pool, copied, with what they tell."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import errors
from fastnn.training import History

RAISED = [
    errors.Diverged("it grew", epoch=3, layer=2, history=History(cost=[1.0, 2.0])),
    errors.DeviceLost("it fell", epoch=3, step=4, history=History(cost=[1.0])),
    *(kind("why") for kind in vars(errors).values()
      if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (errors.Diverged, errors.DeviceLost)),
]  # fmt: skip


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_the_same_error_again(error, again):
    error.add_note("beside it")
    twin = again(error)
    assert (type(twin), twin.args, str(twin), twin.__notes__) == (type(error), error.args, str(error), error.__notes__)
    for name in ("epoch", "layer", "step", "history"):
        assert getattr(twin, name, None) == getattr(error, name, None)


def diverging(rate):
    X = np.random.default_rng(0).random((20, 3))
    fastnn.Network([3, 4, 2], backend="numpy", seed=0).fit(X, np.arange(20) % 2, optimizer="sgd", learning_rate=rate)


def test_a_pool_hands_it_on():
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(fastnn.Diverged) as caught:
        pool.map_async(diverging, [0.1, 1e38]).get(timeout=120)
    assert (caught.value.epoch, type(caught.value.history)) == (1, History)
