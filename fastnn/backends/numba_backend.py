"""The Numba engine: the fastest way here to train on a CPU.

Operations are single compiled calls. A program runs many steps inside one compiled function, with no Python between
them, on as many threads as the plan says (fastnn/backends/cpu_plan.py). There are five: through BLAS
(kernels/cpu/program.py), on panels (panel_program.py), on panels whose lower weights threads share (split_program.py),
for single rows (row_program.py) and on the matrix unit (amx_program.py).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ..activations import Activation
from ..costs import Pair
from ..errors import BackendUnavailable
from ..interrupts import loading
from ..optimizers import LayerWise
from .base import Array, Job, Program, Waiting
from .host import HostBackend

try:
    import numba  # noqa: F401 - the reason below names what is missing
except ImportError as error:
    raise BackendUnavailable(f"Numba cannot be imported ({error})") from error
try:
    import scipy.linalg.cython_blas  # noqa: F401 - the BLAS that compiled code calls
except ImportError as error:
    raise BackendUnavailable(f"SciPy, whose BLAS Numba calls, cannot be imported ({error})") from error

from ..kernels.cpu import JIT, gemm, layerwise, operations, undisturbed_by
from ..kernels.cpu.compiling import announced
from ..kernels.cpu.gather import READABLE
from ..kernels.cpu.one_row import one_row
from ..kernels.cpu.prediction import prediction
from ..kernels.cpu.subnormal import as_zero
from .cpu_beside import compile_beside
from .cpu_blas import blas_of_process
from .cpu_crew import run_parts, run_team
from .cpu_explain import explain_plan
from .cpu_machine import AMX_FEW
from .cpu_plan import Plan, Problem, Wishes, choose_plan
from .cpu_program import TeamProgram, states_of, targets_of, two_states, weights_of
from .cpu_row import SharedRow
from .cpu_rows import PREDICTION_ROWS, by_part, converted, factor_of
from .cpu_threads import blas_on_one_thread, sharing, usable_threads
from .cpu_unit import FOR_BYTES, unit_may_be_shared, why_no_unit
from .numba_amx import OCTETS, AmxPredictor, AmxProgram, any_few
from .numba_gradient import Gradients
from .numba_panels import PanelPredictor, PanelProgram, likely_parts, packing_rows, without_last
from .numba_program import NumbaProgram, check_dimensions, shapes_of

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer

__all__ = ["NumbaBackend"]

# Products or a prediction below the first are over before BLAS's threads could be told to rest; above the second,
# a thread more pays for being started.
ONE_THREAD_FLOPS, TEAM_FLOPS = 1_000_000, 20_000_000
# Rows, and rows times units of the widest hidden layer, from which the matrix unit predicts faster; bytes, which would
# have to be converted elsewhere, at any width.
UNIT_ROWS, UNIT_WIDTH, UNIT_OUTPUTS = 1024, 64, 1 << 18
SHARED_ROW_BYTES = 3 << 19  # of parameters, above which one row is shared with helpers
undisturbed_by(loading)
_c = np.ascontiguousarray


class NumbaBackend(HostBackend):
    """Compiled for the CPU with Numba; NumPy arrays in and out.

    Parameters
    ----------
    threads, chunk, sliced, panels, amx : optional
        What is fixed of the plan of every program; see `fastnn.backends.cpu_plan.Wishes`.

    Raises
    ------
    BackendUnavailable
        Numba or SciPy is missing, or the product inside compiled code does not work.
    TypeError, ValueError
        A plan that makes no sense, amx=True where there is no matrix unit that can be used, FASTNN_AMX is neither "on"
        nor "off", or FASTNN_BLAS asks for a BLAS that does not exist or cannot be used.
    """

    name = "numba"
    checks_outputs = True
    reads = frozenset(READABLE)
    predicts = reads - {"bool"}  # which is looked at first: it may be bytes that are seen as bool
    reads_strides = True
    options = ("threads", "chunk", "sliced", "panels", "amx")
    under_way = staticmethod(sharing)

    def __init__(
        self,
        threads: int | None = None,
        chunk: int | None = None,
        sliced: bool | None = None,
        panels: bool | None = None,
        amx: bool | None = None,
    ) -> None:
        self._wishes = Wishes(threads, chunk, sliced, panels, amx)
        if not JIT and (threads or 1) > 1:
            raise ValueError(f"threads={threads} needs compiled code, and NUMBA_DISABLE_JIT is set")
        # Why AMX is not used, None where it is; and the same in words, for plans and `fastnn doctor`.
        self.no_matrix_unit = why_no_unit(amx)
        self._unit_shared = unit_may_be_shared(amx)
        self.matrix_unit = (
            f"not used: {self.no_matrix_unit}"
            if self.no_matrix_unit
            else "float32 in three parts of bfloat16, as exact as products of float32"
            + (FOR_BYTES if self._unit_shared else "")
        )
        self._gradients: WeakKeyDictionary[Network, Gradients] = WeakKeyDictionary()
        self.blas = blas_of_process()
        self.products = str(self.blas) if JIT else "NumPy, because NUMBA_DISABLE_JIT is set"
        with loading():  # it is compiled, or read from disk
            reason = gemm.probe()
        if reason is not None:
            raise BackendUnavailable(f"{reason}; they were computed by {self.products}")

    # ---- operations; arrays that are not C-contiguous are copied into ones that are -----------------

    def _dense_forward(self, a: Array, W: Array, b: Array, out: Array) -> Array:
        check_dimensions(*a.shape, *W.shape)
        a, W, b = _c(a), _c(W), _c(b)

        def part(first: int, last: int) -> None:
            gemm.gemm_nt(a[first:last], W, out[first:last], 1.0, 0.0)
            operations.add_bias(out[first:last], b)

        self._in_parts(part, a.shape[0], 2 * a.shape[0] * W.size)
        return out

    def _activate(self, activation: Activation, z: Array, out: Array) -> Array:
        if out is not z:
            np.copyto(out, z)
        a = _c(out)
        operations.activate(activation.code, z.dtype.type(activation.parameter), a, np.zeros(z.shape[1], z.dtype))
        if a is not out:  # z itself, of other strides
            np.copyto(out, a)
        return out

    def _output_delta(self, activation: Activation, pair: Pair, z: Array, a: Array, y: Array, out: Array) -> Array:
        operations.output_delta(
            pair.code,
            activation.code,
            a.dtype.type(activation.parameter if pair.parameter is None else pair.parameter),
            _c(a),
            *targets_of(y, a.shape[1], a.dtype),
            weights_of(None, a.dtype),
            out,
        )
        return out

    def _cost_sum(self, pair: Pair, z: Array, a: Array, y: Array, weights: Array | None) -> float:
        rows = _c(z), _c(a), *targets_of(y, a.shape[1], a.dtype), weights_of(weights, a.dtype)
        return float(operations.cost_of_rows(pair.code, a.dtype.type(pair.parameter or 0), *rows))

    def _propagate_delta(self, delta: Array, W: Array, activation: Activation, z: Array, a: Array, out: Array) -> Array:
        check_dimensions(*delta.shape, *W.shape)
        delta, W, a = _c(delta), _c(W), _c(a)
        if activation.of_z:  # what the kernel wants in place of a then
            a, zeros = np.empty(z.shape, z.dtype), np.zeros(z.shape[1], z.dtype)
            operations.activate_and_differentiate(activation.code, np.array(z, order="C"), zeros, a)

        def part(first: int, last: int) -> None:
            gemm.gemm_nn(delta[first:last], W, out[first:last], 1.0, 0.0)
            slope, one = a.dtype.type(activation.parameter), a.dtype.type(1)
            operations.times_derivative(activation.code, slope, one, out[first:last], a[first:last])

        self._in_parts(part, delta.shape[0], 2 * delta.shape[0] * W.size)
        return out

    def _times_derivative(self, delta: Array, activation: Activation, z: Array, a: Array) -> Array:
        delta, slope, one = delta.copy(), a.dtype.type(activation.parameter), a.dtype.type(1)
        operations.times_derivative(activation.code, slope, one, delta, a)
        return delta

    def _accumulate(self, Delta_W: Array, Delta_b: Array, delta: Array, a: Array) -> None:
        check_dimensions(*delta.shape, *a.shape)
        delta, a = _c(delta), _c(a)
        self._in_parts(
            lambda first, last: gemm.gemm_tn_columns(delta, first, last, a, Delta_W, 1.0, 1.0),
            delta.shape[1],
            2 * delta.shape[0] * Delta_W.size,
        )
        operations.sum_columns(delta, 0, Delta_b.shape[0], Delta_b, np.empty_like(Delta_b))

    @as_zero()
    def _update(self, optimizer: Optimizer, theta: Array, grad: Array, t: int) -> None:
        state1, state2 = two_states(states_of(optimizer, theta), theta.dtype)
        hyper, grad = np.array(optimizer.hyper()), optimizer.clipped(grad)
        if not isinstance(optimizer, LayerWise):
            for part, decay in optimizer.parts():
                w, D, *states = (x[part] for x in (theta, _c(grad), state1, state2))
                operations.update(optimizer.code, hyper, t, w, D, *states, 1.0, 0.0, decay > 0)
            return
        direction, squares = grad.copy(), np.empty((1, 2))
        for part, decay in optimizer.parts():
            w, d, first, second = theta[part], direction[part], state1[part], state2[part]
            layerwise.prepare(optimizer.code, hyper, t, w, d, first, second, 1.0, 0.0, decay > 0, squares[0])
            layerwise.move(optimizer.code, hyper, w, d, first, decay > 0, squares)

    def program_for(self, job: Job) -> Program:
        plan = self.choose(job)
        if self._wishes.amx and not plan.amx:
            reason = self._problem(job).no_amx or "there are fewer rows at a time than threads"
            warnings.warn(
                f"amx=True is not followed, products are computed {plan.products}: {reason}",
                RuntimeWarning,
                stacklevel=5,
            )
        return self._program(job, plan)

    def _program(self, job: Job, plan: Plan) -> TeamProgram:
        net = job.net
        if plan.amx:
            compile_beside(
                "amx._forward", f"amx_table({likely_parts(net, job.batch_size)}, {any_few(net)}, {_octets(job)})"
            )
            return AmxProgram(job, plan)
        if plan.panels:
            dtype, needed = net.dtype.name, likely_parts(net, job.batch_size)
            compile_beside("panels._apply", f"table({dtype!r}, {needed}); packing({dtype!r})")
            return PanelProgram(job, plan)
        return NumbaProgram(job, plan, self.blas)

    def outputs(self, net: Network, x: Array, activated: bool = True) -> Array | None:
        """One compiled call; a team of threads for many rows. One row touches neither threads nor limits, unless
        its weights are more than a cache holds (cpu_row.py).
        """
        known = net._predictor or self._known(net)
        m = len(x)
        if m == 1 and activated:  # every step in Python between the caller and the compiled code would be noticed here
            if x.dtype != known.dtype:
                x = converted(x, known.dtype, factor_of(net, x))
            h = np.empty(known.shape, known.dtype)
            return h if (known.one_row or known.make_one_row())(x, known.layers, h) else None
        h = np.empty((m, known.shape[1]), known.dtype)
        return h if self._many_rows(known, net, x, h, activated) else None

    def _known(self, net: Network) -> _Predictor:
        if net._predictor is None:
            net._predictor = _Predictor(net, self._most_threads, self._wishes.threads)
        known: _Predictor = net._predictor
        return known

    def _many_rows(self, known: _Predictor, net: Network, x: Array, h: Array, activated: bool) -> bool:
        flops, scale, dtype = 2 * net.layout.size * x.shape[0], factor_of(net, x), known.dtype
        if (predictor := self._packing(known, net, x)) is not None:
            packed, octets = predictor.packed(net), predictor is known.unit and self._takes_bytes(net, x)
            cuts = predictor.cuts(x.shape[0], team := self._team_for(x.shape[0], flops))

            def predict(x: Array, h: Array) -> bool:
                return predictor.predict(packed, x, h, activated, *([scale] if octets else []))

            return all(
                run_parts(
                    lambda i: by_part(
                        predict, x[cuts[i] : cuts[i + 1]], h[cuts[i] : cuts[i + 1]], x.dtype if octets else dtype, scale
                    ),
                    len(cuts) - 1,
                    team,
                )
            )

        def work(first: int, last: int) -> bool:
            scratch = np.empty(min(last - first, PREDICTION_ROWS) * known.width, dtype)
            return by_part(
                lambda x, h: bool(known.predict(x, *known.shapes[activated], net.theta, scratch, h)),
                x[first:last],
                h[first:last],
                dtype,
                scale,
            )

        return all(self._in_parts(work, x.shape[0], flops))

    def warming_rows(self, net: Network) -> list[int]:
        known, rows = self._known(net), {1, 2}
        if known.fits_panels and self._wishes.panels is not False:
            rows.add(packing_rows(net))
        if self._fits_unit(net, UNIT_ROWS):
            wide = known.widest >= UNIT_WIDTH and not self._unit_shared
            rows.add(max(UNIT_ROWS, -(-UNIT_OUTPUTS // known.widest)) if wide else UNIT_ROWS)
        return sorted(rows)

    def _takes_bytes(self, net: Network, x: Array) -> bool:
        """Whether the matrix unit takes these as they are; where scaled bytes may overflow, they are converted,
        which shows.
        """
        return (
            x.dtype in OCTETS and net.sizes[0] > AMX_FEW and 255 * factor_of(net, x) <= float(np.finfo(net.dtype).max)
        )

    def _fits_unit(self, net: Network, rows: int) -> bool:
        return (
            rows >= UNIT_ROWS
            and net.dtype == np.float32
            and self.no_matrix_unit is None
            and self._wishes.panels is None
        )

    def _packing(self, known: _Predictor, net: Network, x: Array) -> AmxPredictor | PanelPredictor | None:
        """What predicts these rows on parameters that are packed or laid out first, if that pays."""
        rows = x.shape[0]
        if self._fits_unit(net, rows) and (
            (known.widest >= UNIT_WIDTH and rows * known.widest >= UNIT_OUTPUTS and not self._unit_shared)
            or self._takes_bytes(net, x)
        ):
            known.unit = known.unit or AmxPredictor(net)
            return known.unit
        if rows >= packing_rows(net) and known.fits_panels and self._wishes.panels is not False:
            known.panels = known.panels or PanelPredictor(net)
            return known.panels
        return None

    def _in_parts(self, work: Callable[[int, int], Any], total: int, flops: int) -> list[Any]:
        """[work(first, last), ...] for the parts of 0..total, one for each thread that so much arithmetic pays for;
        their products use one each.
        """
        team = self._team_for(total, flops)
        cuts = [total * member // team for member in range(team + 1)]

        def part(me: int) -> Any:
            with self.blas.one_thread_here():
                return work(cuts[me], cuts[me + 1])

        if team == 1 and flops < ONE_THREAD_FLOPS:
            return [part(0)]
        with blas_on_one_thread():
            return run_team(part, team)

    def _gradient(self, net: Network, *rows: Any) -> tuple[float, Array, int | None] | None:
        return self._gradients_of(net)(net, *rows) if JIT else None

    def _gradient_of_deltas(self, net: Network, X: Array, delta: Array) -> Array | None:
        return self._gradients_of(net).of_deltas(net, X, delta) if JIT else None

    def _gradients_of(self, net: Network) -> Gradients:
        gradients = self._gradients.get(net)
        if gradients is None:
            gradients = self._gradients[net] = Gradients(lambda job: self._program(job, self.choose(job)))
        return gradients

    def _team_for(self, total: int, flops: int) -> int:
        return min(self._most_threads(), total) if flops > TEAM_FLOPS else 1

    def choose(self, job: Job) -> Plan:
        """The plan of a program made now."""
        problem = self._problem(job)
        plan = choose_plan(problem, self._most_threads(), self._wishes)
        return plan if problem.fits_panels else replace(plan, panels=False)

    def _problem(self, job: Job) -> Problem:
        net, optimizer, batch = job.net, job.optimizer, job.batch_size
        steps = None if job.training_rows is None else -(-job.training_rows // batch)
        # which want norms of whole layers, or of all, across which panels are cut
        fits_panels = not isinstance(optimizer, LayerWise) and optimizer.clip_norm is None
        mkl, vectors = self.blas.library is not None, 1 + len(optimizer.slots)
        return Problem(
            net.sizes,
            batch,
            net.dtype.itemsize,
            fits_panels,
            mkl,
            vectors,
            steps,
            amx=self.no_matrix_unit is None,
            amx_shared=self._unit_shared,
            octets=_octets(job),
        )

    def _most_threads(self) -> int:
        """As wished, else as many as this process may use now."""
        return self._wishes.threads or (usable_threads() if JIT else 1)

    def plan(self, job: Job, explain: bool = False) -> str:
        given = self._problem(job), self._most_threads(), self._wishes
        plan = choose_plan(*given).with_rows_at_most(job.rows)
        if not explain:
            return str(plan)
        first, *why = explain_plan(*given).splitlines()
        limited = (
            []
            if str(plan) == first
            else [
                str(plan),
                f"micro_batch={job.micro_batch}: fewer rows than the engine's own choice, which is explained below",
            ]
        )
        return "\n".join([*limited, first, *why, f"matrix unit (AMX): {self.matrix_unit}", f"BLAS: {self.products}"])

    def announcing(self, say: Callable[[str], None]) -> AbstractContextManager[Waiting]:
        waits: AbstractContextManager[Waiting] = announced(say, Waiting())
        return waits


def _octets(job: Job) -> bool:
    """Whether the data to come are bytes, of which the matrix unit has kernels of their own."""
    return job.data_dtype is not None and np.dtype(job.data_dtype) in OCTETS


class _Predictor:
    """What a prediction needs of a network, made once: for one row it would take longer than the prediction."""

    def __init__(self, net: Network, threads: Callable[[], int], most: int | None) -> None:
        sizes, offsets, starts, codes, slopes = shapes = shapes_of(net)
        # for outputs that are not activated, and that are
        self.shapes = (sizes, offsets, starts, without_last(codes), slopes), shapes
        self.dtype = net.dtype
        self.width = int(starts[-1])
        self.shape = (1, net.sizes[-1])
        self._theta = net.theta  # read by its address, so it is to live as long
        weights = net.theta.ctypes.data + net.theta.itemsize * offsets[:-1]
        self.layers = np.stack(
            [sizes[:-1], sizes[1:], weights, codes, slopes.ctypes.data + slopes.itemsize * np.arange(len(codes))],
            axis=1,
        )
        self.predict: Any = prediction(net.dtype)
        self.fits_panels = Problem(net.sizes, 1, net.dtype.itemsize).stays_in_cache
        shared = net.theta.nbytes > SHARED_ROW_BYTES and most != 1 and JIT
        self._making = (
            functools.partial(SharedRow, net.theta, threads, most) if shared else functools.partial(one_row, net.dtype)
        )
        self.one_row: Any = None
        self.widest = max(net.sizes[1:-1], default=0)
        self.panels: PanelPredictor | None = None
        self.unit: AmxPredictor | None = None

    def make_one_row(self) -> Any:
        """`one_row`, (x, layers, h) -> whether x is finite; compiled when first wanted."""
        self.one_row = self._making()
        return self.one_row
