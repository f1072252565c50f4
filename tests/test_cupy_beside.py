"""A layer's Delta beside the way back through it, as two branches of the graph: chosen by timing, neither in the
other's way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from test_cupy_device import fake, working  # noqa: F401 - fixtures

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_program
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_products import EPILOGUES


def program_on(device):
    net = fastnn.Network([6, 20, 12, 4], backend=CupyBackend(device), seed=1)
    return net.backend.compile(net, optimizers.SGD(0.01), 8)


def test_delta_and_the_way_back_are_side_by_side_where_that_was_faster():
    class Faster(ShimDevice):
        def seconds(self, work, *, recorded=True):
            return super().seconds(work) * (0.5 if getattr(work, "func", None) == self.side_by_side else 1)

    program = program_on(Faster())
    assert [choice.beside for choice in program._choices] == [False, True, True]
    assert program.describe().count("back beside Delta") == 2
    assert not any(choice.beside for choice in program_on(ShimDevice())._choices)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("hidden", "offers", "micro_batch"),
    [
        ("relu", tuple(EPILOGUES), None),
        ("tanh", tuple(EPILOGUES), None),
        ("relu", ("DEFAULT",), 3),
        ("relu", ("DEFAULT", "RELU_AUX_BIAS", "DRELU"), None),
    ],
    ids=str,
)
def test_neither_of_two_sides_needs_what_the_other_overwrites(hidden, offers, micro_batch, precision, monkeypatch):
    """The stand-in does them the other way round in a graph; launch by launch they come in turn."""
    rng = np.random.default_rng(0)
    X, y, thetas = rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 4, 40), []
    chosen = cupy_program.choose
    for beside in (True, False):
        monkeypatch.setattr(
            cupy_program,
            "choose",
            lambda *a, beside=beside, **k: [
                replace(choice, beside=beside and layer > 0) for layer, choice in enumerate(chosen(*a, **k))
            ],
        )
        net = fastnn.Network(
            [6, 20, 12, 8, 4],
            hidden=hidden,
            backend=CupyBackend(ShimDevice(offers=offers)),
            seed=1,
            precision=precision,
        )
        program = net.backend.compile(net, optimizers.Adam(0.01), 8, micro_batch)
        program.run(X, y, np.arange(40), 0, 5)
        assert program.mode == "captured"
        thetas.append(net.theta.copy())
        assert (
            any("side_by_side" in str(getattr(call, "func", "")) for call in program._replays[0]._steps[8]._calls)
            is beside
        )
    np.testing.assert_array_equal(*thetas)


def test_products_that_may_run_beside_others_have_a_workspace_of_their_own():
    seen = {}

    class Watched(ShimDevice):
        def _prepare(self, product, A, B, D, workspace, bias, aux):
            seen.setdefault(workspace.ctypes.data, set()).add((product.op_A, product.op_B))
            return super()._prepare(product, A, B, D, workspace, bias, aux)

    program_on(Watched())
    assert len(seen) == 2
    first, second = seen.values()
    assert not first & second


def test_in_a_capture_two_streams_part_and_meet_again(working):  # noqa: F811
    device, seen = CupyBackend().device, []
    with device.work():
        main = working.streams[-1]
        device.side_by_side(lambda: seen.append(working.streams[-1]), lambda: seen.append(working.streams[-1]))
        assert seen == [main, main]
        working.log.clear()
        device.capture(
            lambda: device.side_by_side(
                lambda: seen.append(working.streams[-1]), lambda: seen.append(working.streams[-1])
            )
        )
    beside = seen[2]
    assert seen[3] is main
    assert beside is not main
    assert working.log[:4] == [
        ("record", main.name),
        ("wait", beside.name),
        ("record", beside.name),
        ("wait", main.name),
    ]
