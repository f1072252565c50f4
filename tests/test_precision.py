"""precision="tf32" and "bf16": what is rounded and what is not, accuracy beside fp32, refusals, and the model file.
On the stand-in.
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.products import rounded, widened

import fastnn
from fastnn import optimizers
from fastnn.backends.cupy_backend import CupyBackend

SIZES = (6, 24, 16, 4)
REDUCED = ["tf32", "bf16"]
# Relative size of one rounding of a factor: to 10 bits of mantissa, to 7 bits.
ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}


def problem(rows=60):
    X = np.random.default_rng(0).standard_normal((rows, SIZES[0])).astype(np.float32)
    return X, X[:, :4].argmax(axis=1)


def step(precision, hidden="relu", offers=None, batch=60, l2=0.0):
    """A network before and after one step of gradient descent with rate 1, so that the difference is D."""
    device = ShimDevice(**({} if offers is None else {"offers": offers}))
    net = fastnn.Network(SIZES, hidden=hidden, precision=precision, backend=CupyBackend(device), seed=2, l2=l2)
    before, (X, y) = net.theta.copy(), problem()
    program = net.backend.compile(net, optimizers.SGD(1.0), batch)
    cost, _ = program.run(X, y, np.arange(60), 0, 1)
    return before, before - net.theta, cost, program


@pytest.mark.parametrize("offers", [None, ("DEFAULT",)], ids=["epilogues", "own kernels"])
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@pytest.mark.parametrize("precision", ["fp32", *REDUCED])
def test_a_gradient_is_off_by_the_rounding_of_its_factors(precision, hidden, offers):
    """Against float64 of the NumPy engine: no more than some roundings of each factor, and not much less either."""
    before, D, cost, _ = step(precision, hidden, offers)
    net = fastnn.Network(SIZES, hidden=hidden, backend="numpy", dtype="float64", init=before.astype(float))
    J, exact = net.cost_and_gradient(problem()[0].astype(float), problem()[1])
    off = np.linalg.norm(D - exact) / np.linalg.norm(exact)
    assert off < 8 * ROUNDING[precision] + 1e-6
    if precision != "fp32":
        assert off > ROUNDING[precision] / 8  # it is computed in this precision
    np.testing.assert_allclose(cost / 60, J, rtol=8 * ROUNDING[precision] + 1e-6)


def test_small_updates_are_not_lost_to_bfloat16():
    """Theta is float32; its copy for products is rounded anew after every step."""
    net = fastnn.Network(SIZES, precision="bf16", backend=CupyBackend(ShimDevice()), seed=2)
    start, (X, y) = net.theta.copy(), problem()
    program = net.backend.compile(net, optimizers.SGD(1e-5), 60)
    for _ in range(200):
        program.run(X, y, np.arange(60), 0, 1)
    assert net.theta.dtype == np.float32
    moved = np.abs(net.theta - start)
    assert (moved > 0).mean() > 0.5
    assert (moved < np.abs(start) * 2.0**-9).mean() > 0.2  # less than bfloat16 could hold
    low = program._buffers.weights[1]
    np.testing.assert_array_equal(low, rounded(net.weights[1]))
    np.testing.assert_array_equal(program._buffers.biases[1], rounded(net.biases[1]))


def test_a_change_of_theta_from_outside_reaches_the_copy():
    net = fastnn.Network(SIZES, precision="bf16", backend=CupyBackend(ShimDevice()), seed=2)
    X, y = problem()
    program = net.backend.compile(net, optimizers.SGD(1e-3), 60)
    first, _ = program.run(X, y, np.arange(60), 0, 1)
    net.theta[:] = 0
    second, _ = program.run(X, y, np.arange(60), 0, 1)
    np.testing.assert_allclose(second, 60 * np.log(4), rtol=1e-6)
    assert first != second


@pytest.mark.parametrize("precision", REDUCED)
def test_replays_equal_eager_steps_bit_for_bit(precision):
    """Two hundred; a thousand in float32 (test_cupy_program)."""
    thetas = []
    for refuse in (None, "for comparison"):
        net = fastnn.Network(
            SIZES, precision=precision, backend=CupyBackend(ShimDevice(refuses_capture=refuse)), seed=2
        )
        program, (X, y) = net.backend.compile(net, optimizers.Adam(1e-3), 16), problem()
        with pytest.warns(RuntimeWarning) if refuse else _nothing():
            for epoch in range(50):
                program.run(X, y, np.random.default_rng(epoch).permutation(60), 0, 4)
        assert (program.mode, program.optimizer.t) == ("eager" if refuse else "captured", 200)
        thetas.append(net.theta)
    np.testing.assert_array_equal(*thetas)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


def test_the_epilogues_of_bfloat16_sum_biases_in_float32():
    *_, program = step("bf16")
    assert [choice.biases for choice in program._choices] == ["BGRADB", "BGRADB", "BGRADB"]
    assert [choice.back for choice in program._choices] == ["DEFAULT", "DRELU", "DRELU"]


@pytest.mark.parametrize("precision", REDUCED)
def test_parts_of_a_batch_add_up(precision):
    thetas = []
    for micro_batch in (None, 13):
        net = fastnn.Network(SIZES, precision=precision, backend=CupyBackend(ShimDevice()), seed=2, l2=0.1)
        program, (X, y) = net.backend.compile(net, optimizers.SGD(0.1), 50, micro_batch), problem()
        for _ in range(3):
            program.run(X, y, np.arange(60), 0, 2)
        thetas.append(net.theta)
    np.testing.assert_allclose(*thetas, atol=8 * ROUNDING[precision])


def test_digits_are_learnt_as_well_as_in_float32():
    """The held-out fifth of the 8x8 digits, bytes read as they are: within half a percent of fp32 on average over
    two seeds.
    """
    X, y = fastnn_digits()
    scores = {}
    for precision in ("fp32", *REDUCED):
        scores[precision] = []
        for seed in range(2):
            net = fastnn.Network([64, 32, 10], precision=precision, backend=CupyBackend(ShimDevice()), seed=seed)
            net.fit(X[:1437], y[:1437], batch_size=64, epochs=12, learning_rate=5e-3, scale=1 / 16, seed=seed)
            scores[precision].append(net.score(X[1437:], y[1437:]))
    mean = {precision: np.mean(values) for precision, values in scores.items()}
    assert mean["fp32"] > 0.9
    assert all(mean[precision] >= mean["fp32"] - 0.005 for precision in REDUCED), scores


def fastnn_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return digits.data[order].astype(np.uint8), digits.target[order]


def test_bytes_stay_bytes_on_the_device():
    backend = CupyBackend(ShimDevice())
    net = fastnn.Network([64, 8, 10], backend=backend)
    X, y = fastnn_digits()
    seen = []
    gather = backend.device._launch
    backend.device._launch = lambda kernel, *rest: (
        seen.append((kernel, rest[-1][0].dtype)) if kernel.startswith("gather") else None,
        gather(kernel, *rest),
    )[1]
    net.fit(X, y, batch_size=600, epochs=1, scale=1 / 16, validation=0.2)
    assert set(seen) == {("gather_bytes", np.dtype(np.uint8))}
    reference = fastnn.Network([64, 8, 10], backend="numpy")
    reference.fit(X, y, batch_size=600, epochs=1, scale=1 / 16, validation=0.2)
    np.testing.assert_allclose(net.theta, reference.theta, atol=1e-5)


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("precision", REDUCED)
def test_the_other_engines_refuse(precision, engine):
    with pytest.raises(
        ValueError,
        match=rf"precision='{precision}' is for the cupy engine, this network runs on {engine}; use precision='fp32', "
        r"or backend='cupy'",
    ):
        fastnn.Network(SIZES, precision=precision, backend=engine)


def test_what_makes_no_sense_is_refused():
    backend = CupyBackend(ShimDevice())
    with pytest.raises(ValueError, match=r"precision='bf16' is a way to train float32 networks, this one is float64"):
        fastnn.Network(SIZES, precision="bf16", dtype="float64", backend=backend)
    with pytest.raises(ValueError, match=r"precision='fp16' is not known.*Known: fp32, tf32, bf16"):
        fastnn.Network(SIZES, precision="fp16", backend=backend)
    net = fastnn.Network(SIZES, precision="bf16", backend=CupyBackend(ShimDevice(offers=())))
    with pytest.raises(
        ValueError,
        match=r"precision='bf16' cannot be used: there is no cuBLASLt here; use precision='fp32'",
    ):
        net.backend.compile(net, optimizers.SGD(), 4)


# ---- recorded in the model
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", REDUCED)
def test_the_model_file_remembers(precision, tmp_path):
    backend, path = CupyBackend(ShimDevice()), tmp_path / "model.safetensors"
    net = fastnn.Network(SIZES, precision=precision, backend=backend)
    net.save(path)
    assert fastnn.load(path, backend=backend).precision == precision
    with pytest.warns(
        UserWarning,
        match=rf"precision='{precision}', in which the network was trained, is not one of the numpy engine; it goes "
        r"on with precision='fp32'",
    ):
        other = fastnn.load(path, backend="numpy")
    assert other.precision == "fp32"
    np.testing.assert_array_equal(other.theta, net.theta)


def test_the_plan_says_the_precision():
    backend = CupyBackend(ShimDevice())
    texts = {
        precision: fastnn.Network(SIZES, precision=precision, backend=backend).plan(4096)
        for precision in ("fp32", *REDUCED)
    }
    assert all(f"{precision} products" in text for precision, text in texts.items())
    megabytes = {precision: float(text.split(" MB")[0].split()[-1]) for precision, text in texts.items()}
    assert megabytes["bf16"] < megabytes["fp32"] == megabytes["tf32"]


def test_stored_numbers_are_bfloat16():
    *_, program = step("bf16")
    assert {program._arena[name].dtype for name in ("a0", "a1", "delta0", "low")} == {np.dtype(np.uint16)}
    assert program._arena["Delta"].dtype == np.float32
    assert np.isfinite(widened(program._arena["a1"])).all()
