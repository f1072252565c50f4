"""Products with epilogues: what the stand-in computes, what the engine chooses by timing, and what it remembers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.products import mask_of, rounded, tf32, widened
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_program
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_plan import Choice
from fastnn.backends.cupy_products import EPILOGUES, Candidate, NotOffered, aux_ld, back, forward, outer
from fastnn.backends.cupy_tuner import Tuner, default_file

SHAPES = [(1, 1, 1), (3, 5, 2), (33, 65, 31), (40, 12, 130)]  # rows, n_in, n_out
PRECISIONS = [("float32", "fp32"), ("float32", "tf32"), ("float64", "fp64"), ("bfloat16", "fp32")]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
precisions = pytest.mark.parametrize(("kind", "compute"), PRECISIONS, ids=[f"{k} {c}" for k, c in PRECISIONS])
WORKSPACE = np.zeros(4096, np.uint8)


def numbers(shape, kind, seed=0):
    """A stored array and its exact values."""
    x = (
        np.random.default_rng([seed, *shape])
        .standard_normal(shape)
        .astype(np.float64 if kind == "float64" else np.float32)
    )
    x = rounded(x) if kind == "bfloat16" else x
    return x, widened(x).astype(np.longdouble)


def blank(shape, kind):
    return np.full(shape, 0xFFFF, np.uint16) if kind == "bfloat16" else np.full(shape, np.nan, kind)


def multiply(product, *arrays, **more):
    device = ShimDevice(aligned=False)
    if product.doubtful:  # the engine does not ask for it; the stand-in's own arithmetic is tested all the same
        (candidate,) = device._prepare(product, *arrays, WORKSPACE, more.get("bias"), more.get("aux"))
    else:
        (candidate,) = device.prepare(product, *arrays, WORKSPACE, **more)
    candidate.call()


def bound(kind, compute, terms, magnitude, output=None):
    """Of a product of `terms` terms: rounding of the sums, of tf32 factors (11 bits), and of a bfloat16 result (8
    bits).
    """
    eps = np.finfo(np.float64 if kind == "float64" else np.float32).eps
    return (
        (terms + 2) * eps + (2.0**-10 if compute == "tf32" else 0) + (2.0**-8 if (output or kind) == "bfloat16" else 0)
    ) * magnitude + 1e-30


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "BIAS", "RELU_BIAS", "RELU_AUX_BIAS"])
def test_forward(epilogue, shape, kind, compute):
    """z = a Theta^T + b with row-major arrays, against a product that knows nothing of columns."""
    m, n_in, n_out = shape
    (a, A), (W, V), (b, B), z = (
        numbers((m, n_in), kind),
        numbers((n_out, n_in), kind, 1),
        numbers((n_out,), kind, 2),
        blank((m, n_out), kind),
    )
    aux = np.full((m, aux_ld(n_out) // 8), 0xAA, np.uint8)
    multiply(forward(m, n_in, n_out, kind, compute, epilogue), W, a, z, bias=b, aux=aux)
    expected = A @ V.T + (B if epilogue != "DEFAULT" else 0)
    limit = bound(kind, compute, n_in, np.abs(A) @ np.abs(V).T + np.abs(B))
    assert_close(widened(z), np.maximum(expected, 0) if "RELU" in epilogue else expected, limit)
    if epilogue == "RELU_AUX_BIAS":
        mask = mask_of(aux, n_out, m, aux_ld(n_out)).T
        np.testing.assert_array_equal(mask, widened(z) > 0)
        assert np.unpackbits(aux, axis=1, bitorder="little")[:, n_out:].sum() == 0


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "DRELU", "DRELU_BGRAD"])
def test_back(epilogue, shape, kind, compute):
    m, n_in, n_out = shape
    (delta, D), (W, V), out = numbers((m, n_out), kind), numbers((n_out, n_in), kind, 1), blank((m, n_in), kind)
    bits = np.random.default_rng(3).random((m, aux_ld(n_in))) < 0.5
    aux, sums = np.packbits(bits, axis=1, bitorder="little"), blank((n_in,), kind)
    multiply(back(m, n_in, n_out, kind, compute, epilogue), W, delta, out, bias=sums, aux=aux)
    expected = D @ V * (bits[:, :n_in] if epilogue != "DEFAULT" else 1)
    limit = bound(kind, compute, n_out, np.abs(D) @ np.abs(V))
    assert_close(widened(out), expected, limit)
    if epilogue == "DRELU_BGRAD":
        assert_close(
            widened(sums),
            expected.sum(axis=0),
            limit.sum(axis=0) + bound(kind, compute, m, np.abs(expected).sum(axis=0)),
        )


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "+=", "BGRADB"])
def test_outer(epilogue, shape, kind, compute):
    """Delta is of the parameters' type, also from bfloat16 factors."""
    m, n_in, n_out = shape
    real = "float32" if kind == "bfloat16" else kind
    (a, A), (delta, D) = numbers((m, n_in), kind), numbers((m, n_out), kind, 1)
    start, sums = (
        (np.ones((n_out, n_in), real) if epilogue == "+=" else blank((n_out, n_in), real)),
        blank((n_out,), real),
    )
    Delta = start.copy()
    multiply(
        outer(m, n_in, n_out, kind, compute, "DEFAULT" if epilogue == "+=" else epilogue, accumulate=epilogue == "+="),
        a,
        delta,
        Delta,
        bias=sums,
    )
    expected = D.T @ A + (1 if epilogue == "+=" else 0)
    assert_close(Delta, expected, bound(kind, compute, m, np.abs(D).T @ np.abs(A) + 1, real), dtype=real)
    if epilogue == "BGRADB":
        assert_close(sums, D.sum(axis=0), bound(kind, compute, m, np.abs(D).sum(axis=0), real), dtype=real)


def test_tf32_keeps_ten_bits():
    x = np.array([1, 1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -3.3e38], np.float32)
    np.testing.assert_array_equal(tf32(x)[:4], np.array([1, 1 + 2.0**-10, 1, 1 + 2.0**-9], np.float32))
    assert tf32(x)[4].view(np.uint32) & 0x1FFF == 0


def test_what_is_not_offered():
    x = np.zeros((2, 2), np.float32)
    assert (
        ShimDevice(offers=("DEFAULT",), aligned=False).prepare(
            forward(2, 2, 2, "float32", "fp32", "BIAS"), x, x, x, WORKSPACE, bias=x[0]
        )
        == []
    )


@pytest.mark.parametrize(("make", "epilogue"), [(back, "DRELU"), (back, "DRELU_BGRAD"), (outer, "BGRADB")])
def test_products_of_one_output_are_not_asked_for_with_epilogues_that_may_not_know_them(make, epilogue):
    """The answer could be wrong numbers: nvmath-python refuses the first two itself."""
    device, rng = ShimDevice(aligned=False), np.random.default_rng(0)
    delta, W, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 1), (1, 3), (5, 3)))
    product = make(5, 3, 1, "float32", "fp32", epilogue)
    arrays = (W, delta, x) if make is back else (x, delta, W)
    assert product.doubtful
    assert (
        device.prepare(
            product,
            *arrays,
            WORKSPACE,
            bias=np.zeros(3 if make is back else 1, np.float32),
            aux=np.zeros((5, 16), np.uint8),
        )
        == []
    )
    assert not make(5, 3, 2, "float32", "fp32", epilogue).doubtful
    assert not make(5, 3, 1, "float32", "fp32").doubtful
    assert not make(5, 1, 2, "float32", "fp32", epilogue).doubtful


def test_products_refuse_arrays_that_they_would_misread():
    device, x = ShimDevice(), np.zeros((4, 4), np.float32)
    product = forward(4, 4, 4, "float32", "fp32", "RELU_AUX_BIAS")
    good = {"bias": x[0], "aux": np.zeros((4, 16), np.uint8)}
    device.prepare(product, x, x, x, WORKSPACE, **good)
    for arrays, more, text in (
        ((x[:3], x, x), good, r"A must have shape \(4, 4\) and rows 4 elements apart, got shape \(3, 4\)"),
        ((x, x.astype(float), x), good, "B must be float32, got float64"),
        (
            (x, x, x.T),
            good,
            r"D must have shape \(4, 4\) and rows 4 elements apart, got shape \(4, 4\) with strides \(4, 16\)",
        ),
        ((x, x, x), {**good, "bias": None}, "bias must be an array on the device"),
        ((x, x, x), {**good, "bias": x[0, :3]}, "bias must be 4 elements without gaps"),
        ((x, x, x), {**good, "aux": np.zeros((3, 16), np.uint8)}, r"aux must have shape \(4, 16\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            device.prepare(product, *arrays, WORKSPACE, **more)
    with pytest.raises(ValueError, match="no such product"):
        device.prepare(outer(4, 4, 4, "float32", "fp32", "BGRADB", accumulate=True), x, x, x, WORKSPACE, bias=x[0])


# ---- choosing by timing
# --------------------------------------------------------------------------------------------------


def program_with(duration=None, hidden="relu", offers=tuple(EPILOGUES), device=None, **kw):
    device = device or ShimDevice(offers=offers)
    device.duration = duration or device.duration
    net = fastnn.Network([6, 20, 12, 4], hidden=hidden, backend=CupyBackend(device), seed=1, **kw)
    return net.backend.compile(net, optimizers.SGD(0.01), 8)


def test_the_fastest_way_is_chosen_for_each_layer():
    assert program_with()._choices == [
        Choice("RELU_AUX_BIAS", "DEFAULT", "DRELU_BGRAD"),
        Choice("RELU_AUX_BIAS", "DRELU_BGRAD", "DRELU_BGRAD"),
        Choice("DEFAULT", "DRELU_BGRAD", "BGRADB"),
    ]
    own = Choice("DEFAULT", "DEFAULT", "kernel")
    slow_epilogues = program_with(lambda name: 1.0 if name in ("DEFAULT", "own kernel") else 5.0)
    assert slow_epilogues._choices == [own, own, own]
    slow_sums = program_with(lambda name: 9.0 if name == "DRELU_BGRAD" else 1.0)
    assert slow_sums._choices[:2] == [
        Choice("RELU_AUX_BIAS", "DEFAULT", "kernel"),
        Choice("RELU_AUX_BIAS", "DRELU", "kernel"),
    ]
    slow_masks = program_with(lambda name: 5.0 if name in ("RELU_AUX_BIAS", "DRELU", "DRELU_BGRAD") else 1.0)
    assert slow_masks._choices == [
        Choice("RELU_BIAS", "DEFAULT", "kernel"),
        Choice("RELU_BIAS", "DEFAULT", "kernel"),
        Choice("DEFAULT", "DEFAULT", "BGRADB"),
    ]
    assert program_with(hidden="identity")._choices[0] == Choice("BIAS", "DEFAULT", "kernel")
    assert program_with(hidden="tanh")._choices[:2] == [own, own]
    assert program_with(hidden=["relu", "tanh"])._choices == [
        Choice("RELU_AUX_BIAS", "DEFAULT", "DRELU_BGRAD"),
        Choice("DEFAULT", "DRELU_BGRAD", "kernel"),
        Choice("DEFAULT", "DEFAULT", "BGRADB"),
    ]
    program = program_with()
    assert "layer 2: RELU_AUX_BIAS forward" in program.describe()
    assert program.net.plan(8).endswith(program.describe())
    assert program.net.plan(9).endswith("epilogues chosen by timing when training begins")


@pytest.mark.parametrize("missing", [e for e in EPILOGUES if e != "DEFAULT"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whatever_is_not_offered_another_way_gives_the_same(missing, dtype):
    rng = np.random.default_rng(0)
    X, y, thetas = rng.standard_normal((20, 6)).astype(dtype), rng.integers(0, 4, 20), []
    for offers in (tuple(EPILOGUES), tuple(e for e in EPILOGUES if e != missing)):
        program = program_with(offers=offers, hidden=["relu", "identity"], dtype=dtype)
        for _ in range(3):
            program.run(X, y, np.arange(20), 0, 3)
        thetas.append(program.net.theta)
    assert not any(missing in (c.forward, c.back, c.biases) for c in program._choices)
    assert_close(*thetas, training(np.dtype(dtype), 9))


def test_the_short_batch_uses_own_kernels_where_an_epilogue_is_not_offered_for_it():
    class Fussy(ShimDevice):
        def _prepare(self, product, *rest):
            return (
                super()._prepare(product, *rest) if product.epilogue == "DEFAULT" or 8 in (product.n, product.k) else []
            )

    program = program_with(device=Fussy())
    X, y = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32), np.arange(20) % 4
    reference = program_with()
    for p in (program, reference):
        p.run(X, y, np.arange(20), 0, 3)
    assert "RELU_AUX_BIAS 4x" not in " ".join(program.net.backend.device.calls)
    assert_close(program.net.theta, reference.net.theta, training(np.dtype(np.float32), 3))


def test_equal_work_is_timed_once():
    device = ShimDevice()
    backend = CupyBackend(device)
    net = fastnn.Network([6, 20, 12, 4], backend=backend)
    backend.compile(net, optimizers.SGD(0.01), 8)
    timed = device.timings
    assert timed > 5
    backend.compile(net, optimizers.Adam(0.01), 8)
    assert device.timings == timed
    backend.compile(net, optimizers.Adam(0.01), 9)
    assert device.timings > timed


def not_offered():
    raise NotOffered("not here")


def test_what_is_proposed_but_does_not_run_is_passed_over():
    tuner, broken = Tuner(ShimDevice()), Candidate("broken", not_offered)
    assert tuner.best("work", [broken, *candidates(None, "good")])[0].name == "good"
    with pytest.raises(NotOffered, match="none of the 2 algorithms that cuBLASLt proposes for other work runs"):
        tuner.best("other work", [broken, broken])


def test_what_is_not_timed_is_tried_once_where_there_are_several():
    calls = []

    def second():
        calls.append(1)

    tuner, found = Tuner(ShimDevice()), [Candidate("broken", not_offered), Candidate("second", second)]
    for _ in range(2):
        assert tuner.best("work", found, measure=False) == (found[1], 0.0)
    assert calls == [1]
    assert tuner.best("other", found[1:], measure=False) == (found[1], 0.0)
    assert calls == [1]
    for measure in (True, False):
        with pytest.raises(NotOffered, match="cuBLASLt proposes no algorithm for nothing"):
            tuner.best("nothing", [], measure=measure)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "fp32"), ("float64", "fp32"), ("float32", "bf16")])
def test_products_are_timed_on_numbers_like_those_of_training(dtype, precision, monkeypatch):
    """Products of zeros are faster on a device that draws less power for them."""
    seen, pieces = [], ("a0", "a1", "delta0", "delta1", "mask1", *(["low"] if precision == "bf16" else []))

    def watched(of):
        def call(buffers, *rest, **options):
            seen.append([bool(np.any(buffers.arena[piece])) for piece in pieces])
            return of(buffers, *rest, **options)

        return call

    for name in ("choose", "timings"):
        monkeypatch.setattr(cupy_program, name, watched(getattr(cupy_program, name)))
    net = fastnn.Network([6, 20, 12, 4], backend=CupyBackend(ShimDevice()), dtype=dtype, precision=precision)
    program = net.backend.compile(net, optimizers.SGD(0.01), 40)
    program.timings()
    assert np.all(seen)
    assert len(seen) == 2
    assert not any(np.any(program._arena[piece]) for piece in ("a0", "a1", "a2", "delta0", "delta1", "mask1", "mask2"))


@pytest.mark.parametrize("missing", ["RELU_AUX_BIAS", "DEFAULT"])
def test_a_way_whose_algorithms_do_not_run_is_not_taken(missing):
    class Broken(ShimDevice):
        def _prepare(self, product, *rest):
            found = super()._prepare(product, *rest)
            return [Candidate(c.name, not_offered) for c in found] if product.epilogue == missing else found

    if missing != "DEFAULT":
        assert program_with(device=Broken())._choices[0] == Choice("RELU_BIAS", "DEFAULT", "kernel")
        return
    with pytest.raises(NotOffered, match="offers no way to compute a layer in fp32 on float32: it names no algorithm"):
        program_with(device=Broken(offers=("DEFAULT",)))


# ---- remembering
# ------------------------------------------------------------------------------------------------------------


class Known(ShimDevice):
    identity = "a card, driver 1, library 2"


def candidates(device, *names):
    def candidate(name):
        def call():
            return None

        call.name = name
        return Candidate(name, call)

    return [candidate(name) for name in names]


def test_choices_survive_the_process_for_the_same_device(tmp_path):
    file, device = tmp_path / "deep" / "choices.json", Known()
    device.duration = {"slow": 2.0, "fast": 1.0, "other": 0.5}.get
    tuner = Tuner(device, file)
    # unknown and not to be timed
    assert tuner.best("work", candidates(device, "slow", "fast"), measure=False)[0].name == "slow"
    winner, seconds = tuner.best("work", candidates(device, "slow", "fast"))
    assert (winner.name, seconds, device.timings) == ("fast", 1.0, 2)
    tuner.save()
    again = Known()
    remembered = Tuner(again, file)
    winner, seconds = remembered.best("work", candidates(again, "slow", "fast"))
    assert (winner.name, seconds, again.timings) == ("fast", 1.0, 0)
    again.duration = device.duration
    # the known one is gone: timed anew
    assert remembered.best("work", candidates(again, "slow", "other"))[0].name == "other"
    elsewhere = Known()
    elsewhere.identity = "another card"
    Tuner(elsewhere, file).best("work", candidates(elsewhere, "slow"))
    assert elsewhere.timings == 1
    anonymous = ShimDevice()
    Tuner(anonymous, file).best("work", candidates(anonymous, "slow"))
    assert anonymous.timings == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 2, "devices": {}}',
        '{"format": 1}',
        '{"format": 1, "devices": {"a card, driver 1, library 2": {"work": 3}}}',
    ],
)
def test_a_damaged_file_counts_as_empty_and_is_replaced(content, tmp_path):
    file, device = tmp_path / "choices.json", Known()
    file.write_text(content)
    tuner = Tuner(device, file)
    tuner.best("work", candidates(device, "one"))
    tuner.save()
    assert json.loads(file.read_text())["devices"][device.identity] == {"work": ["one", 1.0]}


def test_a_user_without_a_home(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("fastnn.backends.cupy_tuner.Path.home", nowhere)
    assert default_file() is None
    tuner = Tuner(Known(), default_file())
    tuner.best("work", candidates(Known(), "one"))
    tuner.save()


def test_a_file_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    device = Known()
    tuner = Tuner(device, tmp_path / "file" / "choices.json")
    tuner.best("work", candidates(device, "one"))
    with pytest.warns(RuntimeWarning, match=r"cannot be kept in .*choices\.json .*each process times them anew"):
        tuner.save()
    tuner.best("more work", candidates(device, "one"))
    tuner.save()
