"""The captured training program over the stand-in: graphs against eager steps, what a capture forbids, memory,
parts of a batch.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_program
from fastnn.backends.cupy_arena import ALIGNMENT, Arena
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_contract import CaptureRefused, ForbiddenInCapture
from fastnn.backends.cupy_step import Step, cut

SIZES, ROWS, BATCH = (6, 12, 9, 4), 70, 16


def problem(dtype="float32", rows=ROWS):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, SIZES[0])).astype(dtype), rng.integers(0, SIZES[-1], rows)


def network(device, **kw):
    return fastnn.Network(SIZES, backend=CupyBackend(device), **{"hidden": "relu", "l2": 0.1, "seed": 3, **kw})


def trained(device, times, *, batch=BATCH, rule=optimizers.Adam, dtype="float32", **kw):
    """The network and program after `times` epochs, and the last result."""
    net, (X, y) = network(device, dtype=dtype, **kw), problem(dtype)
    program = net.backend.compile(net, rule(0.01), batch)
    for epoch in range(times):
        order = np.random.default_rng(epoch).permutation(ROWS)
        result = program.run(X, y, order, 0, program.steps(ROWS))
    return net, program, (*result, program.hits)


def bits(*arrays):
    return [x.view(np.uint8) for x in arrays]


# ---- graphs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offers", [None, ("DEFAULT",)], ids=["epilogues", "own kernels"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_thousand_replays_equal_eager_steps_bit_for_bit(dtype, offers):
    epochs = 200 if (dtype, offers) == ("float32", None) else 40  # five steps an epoch, the last one short
    given = {} if offers is None else {"offers": offers}
    captured, program, result = trained(ShimDevice(**given), epochs, dtype=dtype)
    assert program.mode == "captured"
    assert captured.backend.device.graphs == epochs * 5 - 2  # the first of either size is not a replay
    with pytest.warns(RuntimeWarning, match="launched one by one: for once"):
        eager, other, expected = trained(ShimDevice(seed=5, refuses_capture="for once", **given), epochs, dtype=dtype)
    assert (other.mode, other.why_eager) == ("eager", "for once")
    assert eager.backend.device.graphs == 0
    assert result == expected
    for got, want in zip(
        bits(captured.theta, *program.optimizer.state), bits(eager.theta, *other.optimizer.state), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert program.optimizer.t == other.optimizer.t == epochs * 5


def test_many_steps_go_into_one_graph():
    net, (X, y) = network(ShimDevice()), problem(rows=200)
    program = net.backend.compile(net, optimizers.SGD(0.01), 4)
    program.run(X, y, np.arange(200), 0, 1)
    assert net.backend.device.graphs == 0
    program.run(X, y, np.arange(200), 1, 50)  # 49 steps: three times sixteen, and one
    assert net.backend.device.graphs == 4
    reference = network(ShimDevice(), l2=0.1)
    other = reference.backend.compile(reference, optimizers.SGD(0.01), 4)
    for step in range(50):
        other.run(X, y, np.arange(200), step, step + 1)
    np.testing.assert_array_equal(net.theta, reference.theta)


def test_row_numbers_and_constants_are_uploaded_in_pieces(monkeypatch):
    monkeypatch.setattr("fastnn.backends.cupy_arena.ORDER_ROWS", 3 * BATCH)
    small, program, result = trained(ShimDevice(), 3)
    assert program._arena["order"].shape == (3 * BATCH,)
    monkeypatch.undo()
    large, _, expected = trained(ShimDevice(), 3)
    np.testing.assert_array_equal(small.theta, large.theta)
    assert result[1:] == expected[1:]
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-12)


def test_other_data_and_another_learning_rate_are_seen():
    """A graph holds addresses: new arrays need new graphs. What lies on the device may change in between."""
    thetas = []
    for refuse in (None, "for comparison"):
        net, (X, y) = network(ShimDevice(refuses_capture=refuse)), problem()
        program = net.backend.compile(net, optimizers.Adam(0.01), BATCH)
        with pytest.warns(RuntimeWarning) if refuse else _nothing():
            program.run(X, y, np.arange(ROWS), 0, 5)
            program.run(X, y, np.arange(ROWS), 0, 5)
            program.run(X + 1, y[::-1].copy(), np.arange(ROWS)[::-1].copy(), 0, 5)
            program.optimizer.learning_rate = 0.05
            net.theta[:] = net.theta / 2
            program.training_rows = 10  # lambda / n
            program.run(X, y, np.arange(ROWS), 0, 5)
            program.run(X[:50].copy(), y[:50].copy(), np.arange(50), 0, 4)
        thetas.append(net.theta)
    np.testing.assert_array_equal(*thetas)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


def test_two_networks_train_side_by_side_on_one_device():
    alone = [trained(ShimDevice(), 10, rule=rule)[0].theta for rule in (optimizers.SGD, optimizers.Adam)]
    backend, thetas = CupyBackend(ShimDevice()), [None, None]

    def work(k):
        net, (X, y) = fastnn.Network(SIZES, backend=backend, hidden="relu", l2=0.1, seed=3), problem()
        program = backend.compile(net, (optimizers.SGD, optimizers.Adam)[k](0.01), BATCH)
        for epoch in range(10):
            program.run(X, y, np.random.default_rng(epoch).permutation(ROWS), 0, 5)
        thetas[k] = net.theta

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for theta, expected in zip(thetas, alone, strict=True):
        np.testing.assert_array_equal(theta, expected)


# ---- what a graph cannot hold
# ------------------------------------------------------------------------------------------

FAULTS = {
    "allocate memory": lambda device, x: device.empty((2,), np.float32),
    "allocate memory, pinned": lambda device, x: device.pinned((2,), np.float32),
    "copy from the host": lambda device, x: device.upload(x, np.zeros(2, np.float32)),
    "read back": lambda device, x: device.to_numpy(x),
    "wait": lambda device, x: device.synchronize(),
    "convert arrays": lambda device, x: device.asarray([1.0]),
    "capture another": lambda device, x: device.capture(lambda: None),
    "be timed": lambda device, x: device.seconds(lambda: None),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_step_that_does_what_a_graph_cannot_hold_fails(what, monkeypatch):
    """Planted into the step of a program, after its first run."""
    net, (X, y) = network(ShimDevice()), problem()
    device = net.backend.device
    x = device.empty((2,), np.float32)
    program = net.backend.compile(net, optimizers.SGD(0.01), BATCH)
    program.run(X, y, np.arange(ROWS), 0, 1)
    step = Step.__call__

    def faulty(self):
        step(self)
        FAULTS[what](device, x)

    monkeypatch.setattr(Step, "__call__", faulty)
    with pytest.raises(ForbiddenInCapture, match=f"a step that is being captured may not {what.split(',')[0]}"):
        program.run(X, y, np.arange(ROWS), 1, 3)
    monkeypatch.undo()
    program.run(X, y, np.arange(ROWS), 1, 3)  # the device is not left capturing


def test_a_recorded_call_is_not_done_before_the_graph_is_launched():
    device = ShimDevice()
    x = device.empty((3,), np.float32)
    x[...] = 1
    graph = device.capture(lambda: device.clear(x))
    np.testing.assert_array_equal(x, 1)
    graph.launch()
    np.testing.assert_array_equal(x, 0)
    with pytest.raises(CaptureRefused, match="cannot be captured"):
        device.capture(lambda: device.gemm("N", "N", 1, 1, 1, x, 1, x, 1, x, 1))


# ---- memory
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 16, 70])
def test_the_memory_of_a_program_is_one_allocation_of_the_predicted_size(batch, dtype):
    net, (X, y) = network(ShimDevice(), dtype=dtype), problem(dtype)
    optimizer = optimizers.Adam(0.01)
    optimizer.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    predicted = Arena.size(cupy_program.footprint(net, net.backend.device, batch, batch, optimizer))
    sizes, empty = [], net.backend.device._empty
    net.backend.device._empty = lambda shape, dtype: (
        sizes.append(int(np.prod(shape)) * np.dtype(dtype).itemsize) or empty(shape, dtype)
    )
    program = net.backend.compile(net, optimizer, batch)
    program.run(X, y, np.arange(ROWS), 0, program.steps(ROWS))
    assert sizes == [predicted] == [program.arena_bytes]
    assert f"{predicted / 1e6:,.1f} MB of device memory" in net.plan(batch)


def test_the_pieces_of_an_arena_are_aligned_and_apart():
    device = ShimDevice()
    pieces = {
        "a": ((3, 5), np.dtype(np.float32)),
        "b": ((1,), np.dtype(np.uint8)),
        "c": ((7,), np.dtype(np.float64)),
        "d": ((2, 2), np.dtype(np.uint16)),
    }
    arena = Arena(device, pieces)
    for number, (name, (shape, dtype)) in enumerate(pieces.items()):
        assert (arena[name].shape, arena[name].dtype) == (shape, dtype)
        assert device.address(arena[name]) % ALIGNMENT == 0
        assert (arena[name] == 0).all()
        arena[name][...] = number
    for number, name in enumerate(pieces):
        assert (arena[name] == number).all()
    assert Arena.size(pieces) == 4 * ALIGNMENT


def test_parts_of_a_batch():
    assert cut(10, 10) == [(0, 10)]
    assert cut(10, 4) == [(0, 4), (4, 4), (8, 2)]
    assert cut(9, 5) == [(0, 5), (5, 4)]
    assert cut(1, 5) == [(0, 1)]


def needed(batch, rows, **kw):
    """Bytes for a network, its rule, the copies that fit keeps, and a program."""
    net = network(ShimDevice(), **kw)
    return (2 + 3) * net.theta.nbytes + Arena.size(
        cupy_program.footprint(net, net.backend.device, batch, rows, optimizers.Adam())
    )


@pytest.mark.parametrize("offers", [None, ("DEFAULT",)], ids=["epilogues", "own kernels"])
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_that_does_not_fit_is_done_in_parts_to_the_same_result(parts, hidden, offers):
    batch, given = 66, {} if offers is None else {"offers": offers}
    rows = -(-batch // parts)
    whole, program, expected = trained(ShimDevice(**given), 3, batch=batch, hidden=hidden)
    assert program.micro_batch == batch
    limited = ShimDevice(limit=needed(batch, rows), **given)
    assert f"in parts of {rows} rows" in network(limited, hidden=hidden).plan(batch)
    split, program, result = trained(limited, 3, batch=batch, hidden=hidden)
    assert program.micro_batch == rows
    assert program.mode == "captured"
    assert "not enough device memory at present: " in split.plan(batch)  # the program holds it
    assert_close(split.theta, whole.theta, 10 * training(np.dtype(np.float32), 6) * np.abs(whole.theta).max())
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-5)
    assert result[1:] == expected[1:]


@pytest.mark.parametrize(("batch", "most", "rows", "without"), [(66, 20, 17, 17), (66, 20, 17, 15), (10, 4, 4, 2)])
def test_products_are_chosen_for_the_rows_of_the_parts(batch, most, rows, without):
    """A batch is cut into equal parts, and one of the parts may be shorter: an epilogue that is not offered for so many
    rows is not used for them, nor timed for other rows than there are.
    """

    class Device(ShimDevice):
        def _prepare(self, product, *arrays):
            rows_of.update({product.m, product.n, product.k} & {17, 15, 20, 4, 2})
            if without in (product.m, product.n, product.k) and product.epilogue != "DEFAULT":
                return []
            return super()._prepare(product, *arrays)

    rows_of = set()
    (X, y), thetas = problem("float32"), []
    for device, micro_batch in ((Device(), most), (ShimDevice(), None)):
        net = network(device, hidden="relu")
        program = net.backend.compile(net, optimizers.SGD(0.1), batch, micro_batch)
        program.run(X, y, np.arange(batch), 0, 1)
        thetas.append(net.theta)
        if micro_batch is not None:
            assert program.micro_batch == rows
    assert rows in rows_of
    assert most == rows or most not in rows_of
    assert_close(*thetas, 10 * training(np.dtype(np.float32), 1))


def test_free_memory_in_pieces_makes_parts_too():
    """The device says that there is enough, but not in one piece."""
    whole, _, expected = trained(ShimDevice(), 3, batch=64)
    device = ShimDevice()
    largest, empty = (
        Arena.size(cupy_program.footprint(network(ShimDevice()), device, 64, 20, optimizers.Adam())),
        device._empty,
    )

    def in_pieces(shape, dtype):
        if int(np.prod(shape)) * np.dtype(dtype).itemsize > largest:
            raise MemoryError("in pieces")
        return empty(shape, dtype)

    device._empty = in_pieces
    split, program, result = trained(device, 3, batch=64)
    assert program.micro_batch == 16
    assert program.arena_bytes <= largest
    assert_close(split.theta, whole.theta, 10 * training(np.dtype(np.float32), 6) * np.abs(whole.theta).max())
    assert result[1:] == expected[1:]
    largest = 0
    with pytest.raises(MemoryError, match="in pieces"):
        program.net.backend.compile(program.net, optimizers.SGD(), 64)


def test_what_does_not_fit_at_all_is_refused_and_leaves_everything_as_it_was():
    device = ShimDevice(limit=100_000)
    net = network(device)
    free, theta, rule = device.memory()[0], net.theta.copy(), optimizers.Adam()
    with pytest.raises(
        MemoryError,
        match=r"one row at a time needs 0\.\d+ GB of device memory beside the data, .* GB are free",
    ):
        net.backend.compile(net, rule, 1 << 15)
    assert device.memory()[0] == free
    assert (rule.state, rule.t) == ([], 0)
    np.testing.assert_array_equal(net.theta, theta)


def test_a_program_gives_its_memory_back():
    device = ShimDevice(limit=1 << 26)
    net, (X, y) = network(device), problem()
    free = device.memory()[0]
    rule = optimizers.SGD(0.01)
    for _ in range(3):
        program = net.backend.compile(net, rule, BATCH)
        program.run(X, y, np.arange(ROWS), 0, 5)
        assert device.memory()[0] < free
        del program
    import gc

    gc.collect()
    assert device.memory()[0] == free
