"""Every CUDA kernel is watched: small faults are planted in its source one at a time, and a test must turn red.

The faults come from the sources by rule (cuda_faults.py), so a new kernel brings its own. What is written here
are the tests that watch it: a kernel without an entry in WATCH fails, and so does a fault that nobody notices,
unless HARMLESS says why it cannot change a result.
"""

from __future__ import annotations

import functools

import cuda_cases
import cuda_faults
import numpy as np
import pytest
import test_costs_of_errors as errors
import test_cuda_clip as clip
import test_cuda_costs as costs
import test_cuda_kernels as kernels
import test_cuda_layerwise as layerwise
import test_cuda_narrow as narrow
import test_cuda_of_z as of_z
import test_cuda_step as step
import test_dropout as dropout
from cuda_on_cpu import KernelFault, ShimDevice

from fastnn.activations import GELU, LeakyReLU, Sigmoid, Softmax, Tanh
from fastnn.kernels.cuda import launchers, sources
from fastnn.kernels.cuda import step as step_kernels
from fastnn.kernels.cuda.narrow import SHARINGS

# ---- which tests watch which kernel -----------------------------------------------------------------------------

SHAPES = [(33, 40), (600, 3)]  # more columns than lanes in a warp; more rows than the few blocks below take at once


def watching(test, *cases):
    """A watcher that runs the test with each of these arguments, in float32, its arrays guarded."""

    def watch():
        for case in cases:
            memory = cuda_cases.Memory()
            test(*case, memory=memory)
            memory.check()

    return watch


def shaped(test, *first):
    return watching(test, *((*first, shape, "float32") for shape in SHAPES))


N = 70
# the largest of each row in another place; too large for exp
PEAKS = np.where(np.eye(N, dtype=bool), np.float32(1e4), np.float32(0))


def softmax():
    a = np.empty_like(PEAKS)
    cuda_cases.kernels().activate(Softmax(), PEAKS, a)
    np.testing.assert_array_equal(a, np.eye(N))
    watching(kernels.test_softmax, *((shape, "float32", 22) for shape in SHAPES))()
    kernels.test_softmax_at_the_edges(40, "float32")


def delta(g, kind):
    return shaped(kernels.test_output_delta, g, False, kind)


def cost():
    for cross_entropy in (True, False):  # the cost of e^1e4 for the class itself is 0
        got, hits = costs.cost(cross_entropy, PEAKS, PEAKS / 1e4, np.arange(N))
        assert (got, hits) == (0, N)
    certain = np.eye(N, dtype=PEAKS.dtype)
    assert tuple(costs.cost(True, PEAKS, PEAKS / 1e4, certain, softmax=True)) == (0, N)
    for shape in SHAPES:
        costs.test_cost_and_hits(shape, 22, "float32")
    costs.test_argmax_takes_the_first_of_equals_and_nan_first_of_all("float32")
    costs.test_a_class_out_of_range_makes_the_cost_nan(5)
    costs.test_costs_are_finite_at_the_edges("float32")


ERRORS = ("absolute_error", "huber:0.4", "quantile:0.75", "poisson")
of_errors = watching(errors.check_kernels, *((c, shape, "float32") for c in ERRORS for shape in SHAPES))


def partials():
    totals = np.zeros(2)
    ShimDevice(1).launch("add_partials", "float32", (2,), (64,), (totals, np.arange(1400.0).reshape(2, 700), 700, 1.0))
    np.testing.assert_array_equal(totals, np.arange(1400.0).reshape(2, 700).sum(axis=1))
    squares()


def squares():
    kernels.test_squares_and_nonfinite(1025, "float32")


def update(rule):
    return watching(
        step.test_update,
        *((rule, sizes, 0.25, shift, "float32") for sizes in ((5, 7, 1, 4), (60, 90, 3)) for shift in (0, 1)),
    )


def layers(rule):
    """(60, 90, 3): a part of more elements than the few blocks below hold threads, and parts of fewer."""
    return watching(layerwise.test_step, *((rule, sizes, 0.25, "float32") for sizes in ((5, 7, 1, 4), (60, 90, 3))))


def clipping():
    watching(
        clip.test_step,
        *((sizes, 0.25, share, "float32") for sizes in ((5, 7, 1, 4), (60, 90, 3)) for share in (0.3, 1.5)),
    )()
    clip.test_the_factor_is_of_all_sums()


def ratios():
    for rule in ("lars", "lamb"):
        layers(rule)()
    layerwise.test_ratios_are_sums_of_everything()


def bias_activate():
    watching(step.test_bias_activate, *((Tanh(), shape, "float32") for shape in (*SHAPES, (7, 33))))()
    watching(step.test_arrays_that_begin_anywhere, (Tanh(), "float32"))()


def gather(source):
    def watch():
        watching(step.test_gather, *((source, shape, "float32") for shape in SHAPES))()
        step.test_gather_of_a_row_that_is_not_there("float32")

    return watch


def output(g, cross_entropy, targets):
    """The rows of a batch, both ways of delta, and what is out of range."""

    def watch():
        cases = [
            (over, g, cross_entropy, targets, shape, "float32")
            for over in ("delta over z", "apart")
            for shape in ((33, 10), (3, 33), (601, 4))
        ]
        watching(step.test_output, *cases)()
        if isinstance(g, Softmax) and targets == "classes":
            step.test_softmax_of_peaks(g, cross_entropy, "float32")
        if targets == "classes":
            for bad in ("row", "class"):
                step.test_a_row_or_a_class_out_of_range_makes_the_cost_nan(bad, g, cross_entropy)

    return watch


def sums(*gs):
    return watching(
        step.test_sums_of_columns, *((g, shape, "float32") for g in gs for shape in ((257, 72), (1000, 5), (5000, 8)))
    )


COLUMN_SUMS = watching(
    kernels.test_column_sums,
    *((shape, accumulate, "float32") for shape in ((257, 70), (1000, 5)) for accumulate in (False, True)),
)


def column_sums():
    COLUMN_SUMS()
    sums(None)()


def narrow_steps():
    """More rows than warps and more elements than threads; parts, a short batch, every sharing, with whole tiles;
    bytes; one launch after another.
    """
    for case in (
        {"sizes": (3, 9, 6, 4), "rule": "adam", "part": 3},
        {"sizes": (40, 33, 5), "rule": "momentum", "batch": 9, "rows": 8, "part": 5, "hidden": "leaky_relu"},
        # one output: no shuffle takes a barrier's place
        {"sizes": (3, 9, 1), "rule": "sgd", "source": "uint8", "output": narrow.OUTPUTS[5], "batch": 40},
        # tiles of threads side by side, something beside and below; more inputs than are fetched at once
        {"sizes": (540, 9, 3), "rule": "adam", "batch": 5},
        {"sizes": (2, 6, 5, 4), "rule": "adam", "batch": 131},
    ):
        for sharing in SHARINGS:
            for seed in (1, 2):
                memory = cuda_cases.Memory()
                narrow.Case(memory, **case, sharing=sharing).run(32 if seed == 1 else 96, seed=seed).check()
                memory.check()


WATCH = {
    "add_bias": shaped(kernels.test_add_bias),
    "activate": shaped(kernels.test_activate, Tanh()),
    "bias_activate": bias_activate,
    "activate_of_z": shaped(of_z.test_activate, GELU()),
    "derivative_of_z": shaped(of_z.test_derivative, GELU()),
    "bias_activate_of_z": watching(
        of_z.test_bias_activate, *((GELU(), shape, "float32") for shape in (*SHAPES, (7, 33)))
    ),
    "softmax": softmax,
    "delta_values": delta(LeakyReLU(), "values"),
    "delta_classes": delta(LeakyReLU(), "classes"),
    "delta_softmax_values": delta(Softmax(), "values"),
    "delta_softmax_classes": delta(Softmax(), "classes"),
    "delta_of_errors": of_errors,
    "cost_of_errors": of_errors,
    "output_of_errors": watching(
        step.test_output_of_errors,
        *((c, shape, "float32") for c in ERRORS for shape in ((33, 10), (3, 33), (601, 4))),
    ),
    "times_derivative": shaped(kernels.test_times_derivative, LeakyReLU()),
    "column_sums": column_sums,
    "derivative_sums": sums(LeakyReLU()),
    "drop": watching(dropout.kernel_of_the_gpu, *((shape, "float32") for shape in ((33, 129), (300, 9)))),
    "sum_chunks": sums(None),
    "output_softmax_cross_entropy": output(Softmax(), True, "classes"),
    "output_softmax_probabilities": output(Softmax(), True, "values"),
    "output_sigmoid_cross_entropy": output(Sigmoid(), True, "values"),
    "output_squared_values": output(LeakyReLU(), False, "values"),
    "output_squared_classes": output(LeakyReLU(), False, "classes"),
    "output_softmax_squared_values": output(Softmax(), False, "values"),
    "output_softmax_squared_classes": output(Softmax(), False, "classes"),
    "cost_softmax_cross_entropy": cost,
    "cost_softmax_probabilities": cost,
    "cost_sigmoid_cross_entropy": cost,
    "cost_squared_values": cost,
    "cost_squared_classes": cost,
    "squares_and_nonfinite": squares,
    "add_partials": partials,
    "update_sgd": update("sgd"),
    "update_momentum": update("momentum"),
    "update_adam": update("adam"),
    "clip_norms": clipping,
    "clip_factor": clipping,
    "clip_delta": clipping,
    "lars_norms": layers("lars"),
    "lamb_norms": layers("lamb"),
    "layer_ratios": ratios,
    "lars_move": layers("lars"),
    "lamb_move": layers("lamb"),
    "round_theta": watching(step.test_round_theta, ((60, 90, 3), "float32")),
    "finish_step": lambda: step.test_finish_step("float32"),
    "narrow_steps": narrow_steps,
    "gather_rows": gather("same"),
    "gather_bytes": gather("uint8"),
}

ROUNDED = (
    "runs in bfloat16 alone, whose copy of theta test_update of that kind compares bit by bit; the faults here are in "
    "float32"
)
HARMLESS: dict[str, str] = {
    "update_neighbours: index: [k]  (9)": ROUNDED,
    "update_neighbours: index: [k]  (10)": ROUNDED,
    "update_neighbours: tail: for (k < W)  (2)": ROUNDED,
    "put: index: [place(walk, k)]": ROUNDED,
    "put: index: [k]  (5)": ROUNDED,
    "put: tail: for (k < W)  (2)": ROUNDED,
    "fetch: tail: if (count >= W) return": "reads one element behind the row, which lies in the array or its margin here; nothing is made of it",
}

# ---- planting ---------------------------------------------------------------------------------------------------

FEW = 2  # blocks where a grid strides, so that loops go round with little data
TEXTS, FAULTS = cuda_faults.plant_all()
USERS = cuda_faults.users()


def few(shape_of, count, limit=FEW):
    return shape_of(count, min(limit, FEW))


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """plant(number): from then on the stand-in runs the kernels with that fault, on small grids."""
    with pytest.MonkeyPatch.context() as patch:
        with pytest.MonkeyPatch.context() as redirected:
            library = cuda_faults.compiled(redirected, tmp_path_factory.mktemp("faults"), TEXTS)
        patch.setattr("cuda_on_cpu.device.library", lambda real, faults=(): library)
        for name in ("striding", "_by_warps"):
            patch.setattr(launchers, name, functools.partial(few, getattr(launchers, name)))
        patch.setattr(launchers, "MAX_ROW_BLOCKS", FEW)
        for name in ("MAX_BLOCKS", "REDUCTION_BLOCKS"):
            patch.setattr(step_kernels, name, FEW)
        yield functools.partial(cuda_faults.plant, library)


def test_every_kernel_is_watched_and_has_faults():
    assert set(WATCH) == set(sources.kernels()), "WATCH in test_cuda_faults.py names the tests of each kernel"
    assert set(WATCH) == {kernel for fault in FAULTS for kernel in USERS[fault.function]}
    assert {fault.kind for fault in FAULTS} == {"index", "tail", "stride", "barrier", "walk", "leading"}


@pytest.mark.parametrize("kernel", WATCH)
def test_without_a_fault_the_watchers_are_content(kernel, plant):
    plant(0)
    WATCH[kernel]()


def noticed(kernel):
    try:
        WATCH[kernel]()
    except (AssertionError, KernelFault):
        return True
    return False


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_turns_a_test_red(fault, plant):
    plant(fault.number)
    seen = any(noticed(kernel) for kernel in USERS[fault.function] if kernel in WATCH)
    assert seen or str(fault) in HARMLESS, (
        f"{fault.file}: {fault} - no test of {', '.join(USERS[fault.function])} notices it"
    )
    assert not (seen and str(fault) in HARMLESS), f"{fault} is noticed: take it out of HARMLESS"


def test_nothing_is_called_harmless_that_is_not_there():
    assert set(HARMLESS) <= {str(fault) for fault in FAULTS}
