"""Errors as they travel: by pickle from the workers of a pool, copied, with what they tell."""

import copy
import pickle
import subprocess
import sys

import pytest

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


POOL = """
import multiprocessing
import numpy as np
import fastnn

def diverging(rate):
    X = np.random.default_rng(0).random((20, 3))
    fastnn.Network([3, 4, 2], backend="numpy", seed=0).fit(X, np.arange(20) % 2, optimizer="sgd", learning_rate=rate)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.map_async(diverging, [0.1, 1e38]).get(timeout=60)
        except fastnn.Diverged as error:
            print(error.epoch, type(error.history).__name__)
"""


def test_a_pool_hands_it_on(tmp_path):
    """It waited for ever, because the thread that takes results ended where they could not be unpickled."""
    (tmp_path / "pool.py").write_text(POOL)
    done = subprocess.run(
        [sys.executable, "pool.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1 History\n"), done.stderr
