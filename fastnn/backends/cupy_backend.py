"""The CuPy engine: own CUDA kernels and cuBLAS on an NVIDIA GPU. Its training programs are in cupy_program.py.

Row-major arrays are column-major ones transposed, so the three products of the lecture are, for BLAS:
    z = a Theta^T            (n_out, m)    = op_T(Theta) op_N(a)
    delta Theta              (n_in, m)     = op_N(Theta) op_N(delta)
    Delta (+)= delta^T a     (n_in, n_out) = op_N(a)     op_T(delta)
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..activations import Activation
from ..arrays import device_of
from ..costs import SOFTMAX_CROSS_ENTROPY, Pair
from ..kernels.cuda.launchers import Kernels, partials_shape, scratch_size
from ..optimizers import Decaying
from .base import Array, Backend, Job, Program
from .cupy_arena import Arena
from .cupy_contract import Device
from .cupy_device import open_device
from .cupy_narrow import why_not
from .cupy_program import CupyProgram, arithmetic, footprint, plan_key, rows_that_fit
from .cupy_step import is_cross_entropy, of_errors
from .cupy_stream import HostRows
from .cupy_tuner import Tuner, default_file
from .cupy_update import Update, spans_of_theta, update_constants, update_pieces

if TYPE_CHECKING:
    from ..optimizers import Optimizer

__all__ = ["CupyBackend"]


SHARE_OF_DATA = 0.8  # of the free memory that X may take; activations want the rest


class CupyBackend(Backend):
    """CUDA kernels and cuBLAS on the current device.

    Parameters
    ----------
    device : Device, optional
        What to compute on; None is the current CUDA device through CuPy.
    fused : bool, optional
        Whether one kernel trains narrow nets in shared memory (cupy_narrow.py): True, where it cannot that is an error;
        False, never; None, where it is timed to be faster.

    Raises
    ------
    BackendUnavailable
        No CuPy, no driver, no device, or one that cannot be used, with the reason.
    TypeError
        fused is none of these.
    """

    name = "cupy"
    loses_arrays = True
    reads = frozenset({"uint8"})
    precisions = frozenset({"fp32", "tf32", "bf16"})

    options = ("fused",)

    def __init__(self, device: Device | None = None, fused: bool | None = None) -> None:
        if fused not in (None, True, False):
            raise TypeError(f"fused must be True, False or None, got {fused!r}")
        self.fused = fused
        self.device = open_device() if device is None else device
        self.products = self.device.library
        self.kernels = Kernels(self.device)
        self.tuner = Tuner(self.device, default_file())
        self.plans: dict[tuple[object, ...], str] = {}  # of programs made so far, for people

    # ---- the four operations, and the delta they start from ---------------------------------------

    def _dense_forward(self, a: Array, W: Array, b: Array, out: Array) -> Array:
        a, W, b = self._contiguous(a, W, b)
        self.product_forward(a, W, out)
        self.kernels.add_bias(out, b)
        return out

    def _activate(self, activation: Activation, z: Array, out: Array) -> Array:
        target = out if out.flags.c_contiguous else self.device.empty(tuple(out.shape), out.dtype)
        self.kernels.activate(activation, *self._contiguous(z), target)
        if target is not out:  # in place on a view with strides
            self.device.copy(out, target)
        return out

    def _output_delta(self, activation: Activation, pair: Pair, z: Array, a: Array, y: Array, out: Array) -> Array:
        a, y = self._contiguous(a, y)
        self.kernels.output_delta(activation, is_cross_entropy(pair), a, self._targets(y), out, of_errors(pair))
        return out

    def _propagate_delta(self, delta: Array, W: Array, activation: Activation, z: Array, a: Array, out: Array) -> Array:
        delta, W, a = self._contiguous(delta, W, a)
        self.product_back(delta, W, out)
        if activation.of_z:
            (z,), a = self._contiguous(z), self.device.empty(tuple(z.shape), z.dtype)
            self.kernels.derivative_of_z(activation, z, a)
        self.kernels.times_derivative(activation, out, a)
        return out

    def _times_derivative(self, delta: Array, activation: Activation, z: Array, a: Array) -> Array:
        delta = delta.copy()
        self.kernels.times_derivative(activation, delta, a)
        return delta

    def _accumulate(self, Delta_W: Array, Delta_b: Array, delta: Array, a: Array) -> None:
        delta, a = self._contiguous(delta, a)
        self.product_outer(delta, a, Delta_W)
        scratch = self.device.empty((scratch_size(delta.shape[1]),), delta.dtype)
        self.kernels.column_sums(delta, Delta_b, scratch, accumulate=True)

    def _cost_sum(self, pair: Pair, z: Array, a: Array, y: Array, weights: Array | None) -> float:
        z, a, y = self._contiguous(z, a, y)
        (weights,) = (None,) if weights is None else self._contiguous(weights)
        partials, totals = self.empty(partials_shape(), np.float64), self.zeros((2,), np.float64)
        self.kernels.cost(
            is_cross_entropy(pair), z, a, self._targets(y), partials, totals, weights, of_errors(pair),
            softmax=pair is SOFTMAX_CROSS_ENTROPY,
        )  # fmt: skip
        return float(self.device.to_numpy(totals)[0])

    def _update(self, optimizer: Optimizer, theta: Array, grad: Array, t: int) -> None:
        """One step by the kernels of a program; what they need beside theta is made for this call."""
        (grad,) = self._contiguous(grad)
        P, dtype = theta.shape[0], theta.dtype
        # Layers matter to rules with a weight decay, which know them; for the others theta is one layer without biases.
        layers = (
            optimizer.spans
            if isinstance(optimizer, Decaying) and optimizer.spans is not None
            else np.array([[0, P, P]], np.int64)
        )
        clips = optimizer.clip_norm is not None
        pieces = update_pieces(optimizer.name, (P,) + (1,) * len(layers), 1, dtype, clips)
        memory = {name: self.zeros(shape, kind) for name, (shape, kind) in pieces.items()}
        self.device.upload(memory["spans"], spans_of_theta(layers))
        self.device.upload(memory["constants"], update_constants(optimizer, t, 1, 0.0, dtype))
        if clips:
            given, grad = grad, self.empty(grad.shape, dtype)  # the kernels change theirs
            self.copyto(grad, given)
            self.device.upload(memory["clip"], np.array([optimizer.clip_norm, 1.0]))
        Update(self.device, dtype.name, optimizer, theta, theta, grad, memory)(1)

    def program_for(self, job: Job) -> Program:
        return CupyProgram(self, job)

    # ---- the products, on C-contiguous arrays -------------------------------------------------------

    def product_forward(self, a: Array, W: Array, z: Array) -> None:
        """z = a W^T, (m, n_in), (n_out, n_in) -> (m, n_out); overwrites z."""
        (m, n_in), n_out = a.shape, W.shape[0]
        self.device.gemm("T", "N", n_out, m, n_in, W, n_in, a, n_in, z, n_out)

    def product_back(self, delta: Array, W: Array, out: Array) -> None:
        """out = delta W, (m, n_out), (n_out, n_in) -> (m, n_in); overwrites out."""
        m, (n_out, n_in) = delta.shape[0], W.shape
        self.device.gemm("N", "N", n_in, m, n_out, W, n_in, delta, n_out, out, n_in)

    def product_outer(self, delta: Array, a: Array, Delta_W: Array) -> None:
        """Delta_W += delta^T a, (m, n_out), (m, n_in) -> (n_out, n_in); no 1/m."""
        (m, n_out), n_in = delta.shape, a.shape[1]
        self.device.gemm("N", "T", n_in, n_out, m, a, n_in, delta, n_out, Delta_W, n_in, beta=1.0)

    def plan(self, job: Job, explain: bool = False) -> str:
        net, batch_size, rule = job.net, job.batch_size, job.optimizer.name
        arithmetic(net, self.device)
        try:
            rows = rows_that_fit(net, self.device, batch_size, job.rows, None)
        except MemoryError as error:
            return f"not enough device memory at present: {error}"
        size = Arena.size(footprint(net, self.device, batch_size, rows, None))
        memory = (
            f"{size / 1e6:,.1f} MB of device memory beside the data and the parameters; one wait per slice of steps"
        )
        for_rule = self.plans.get(plan_key(net, batch_size, rows, rule))
        chosen = for_rule or self.plans.get(plan_key(net, batch_size, rows))
        may_fuse = not why_not(net, self.device, batch_size, job.optimizer)
        if for_rule is not None and for_rule.startswith("fused") and may_fuse:
            return f"{for_rule}; {memory}"
        how = "launched one by one" if self.device.no_products else "as one CUDA graph"
        parts = "" if rows == batch_size else f" in parts of {rows} rows, whose gradients add up"
        text = f"each step {how}{parts}; {net.precision} products; {memory}"
        if self.device.no_products is None:
            text += f"; {self.device.library}; {chosen or 'epilogues chosen by timing when training begins'}"
        if for_rule is None and self.fused is not False and may_fuse:
            text += "; or many steps in one launch of a fused kernel, if that is timed to be faster then"
        return text

    # ---- arrays -------------------------------------------------------------------------------------

    def is_array(self, x: object) -> bool:
        return self.device.is_array(x)

    def adopt(self, argument: str, x: Any) -> Any:
        if device_of(x) is None:
            return x
        self.device.guard()
        try:
            x = self.device.adopt(x)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from None
        except (TypeError, BufferError, RuntimeError) as error:
            raise TypeError(
                f"{argument} lies on a GPU but cannot be used from there ({type(error).__name__}: {error}); copy it "
                "to the host, or to a cupy.ndarray"
            ) from error
        if not x.flags.c_contiguous:
            raise ValueError(
                f"{argument} must be C-contiguous on the GPU, got shape {tuple(x.shape)} with strides "
                f"{tuple(x.strides)}; pass cupy.ascontiguousarray({argument})"
            )
        return x

    def as_rows(self, x: Any, beside: int) -> Array:
        if not isinstance(x, np.ndarray):
            return x
        free = self.device.memory()[0] - self.device.reserve_bytes - beside
        if x.nbytes <= max(SHARE_OF_DATA * free, self.device.reserve_bytes):  # so little is not what fills a GPU
            return self.device.asarray(x)
        warnings.warn(
            f"X takes {x.nbytes / 1e9:.3g} GB, the GPU has {max(0, free) / 1e9:.3g} GB for it: its rows stay in the "
            "host's memory and are copied to the GPU for each step",
            RuntimeWarning,
            stacklevel=6,
        )
        return x.view(HostRows)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        return self.device.asarray(x, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return self.device.to_numpy(x)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        x = self.device.empty(shape, dtype)
        self.device.clear(x)
        return x

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.device.empty(shape, dtype)

    def copyto(self, target: Array, source: Array) -> None:
        self.device.copy(target, source)

    def concatenate(self, parts: list[Array]) -> Array:
        rows = [part.shape[0] for part in parts]
        whole = self.device.empty((sum(rows), *parts[0].shape[1:]), parts[0].dtype)
        for part, stop, count in zip(parts, np.cumsum(rows).tolist(), rows, strict=True):
            self.device.copy(whole[stop - count : stop], part)
        return whole

    def sum_of_squares(self, x: Array) -> float:
        return self._scan(x)[0]

    def all_finite(self, x: Array) -> bool:
        return x.dtype.kind in "biu" or self._scan(x)[1] == 0

    def synchronize(self) -> None:
        self.device.synchronize()

    def _scan(self, x: Array) -> tuple[float, float]:
        """Sum of x^2 and the number of elements that are infinite or NaN."""
        x = self.asarray(x, x.dtype if x.dtype.name in ("float32", "float64") else np.float64)
        partials, totals = self.empty(partials_shape(), np.float64), self.zeros((2,), np.float64)
        self.kernels.squares_and_nonfinite(x, partials, totals)
        squares, nonfinite = self.device.to_numpy(totals)
        return float(squares), float(nonfinite)

    def _contiguous(self, *arrays: Array) -> list[Array]:
        return [x if x.flags.c_contiguous else self.device.asarray(x) for x in arrays]

    def _targets(self, y: Array) -> Array:
        """Classes as the int64 that kernels read; values as they are."""
        return y if y.ndim == 2 else self.device.asarray(y, np.int64)

    def _overlap(self, x: Array, y: Array) -> bool:
        return self.device.overlap(x, y)
