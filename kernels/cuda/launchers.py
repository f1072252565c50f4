"""The kernels of the operations: one method for every kernel, or pair of kernels, that belong together.

Each checks shapes, chooses the grid, launches. The kernels of a training step are in step.py. Shapes: m rows, n
columns. `g` is anything with a `.code`, a `.parameter` and `of_z` (fastnn.activations). Targets y are (m, n) of
the arrays' dtype, or int64 classes (m,). dtype and contiguity are checked when the
arguments are bound (`sources.bind`). Nothing here allocates memory or waits for the device.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["MAX_BLOCKS", "MAX_CHUNKS", "Kernels", "cross_entropy_of", "partials_shape", "scratch_size"]

Array = Any
Dim = tuple[int, ...]

THREADS = 256
WARP = 32
MAX_BLOCKS = 1024  # of a grid that strides; enough to fill any device there is
MAX_ROW_BLOCKS = 65535  # hardware limit of gridDim.y
REDUCTION_BLOCKS = 256  # first stage of a reduction; fixed, because the order of a sum follows from it
ROWS_PER_CHUNK, MAX_CHUNKS = 64, 64
IN_ONE_ACCESS = 16  # bytes that a thread moves at a time


class Launcher(Protocol):
    """What a device must offer."""

    def launch(
        self, kernel: str, kind: str, grid: Dim, block: Dim, arguments: tuple[Any, ...], *, shared: int = 0
    ) -> None:
        """Start the kernel of this kind (`sources.KINDS`), each block with so many bytes of dynamic shared memory."""


def partials_shape() -> tuple[int, int]:
    """Shape of the float64 scratch array of `cost`, `squares_and_nonfinite`."""
    return (2, REDUCTION_BLOCKS)


def scratch_size(n: int) -> int:
    """Elements of the scratch vector of `column_sums` for n columns."""
    return MAX_CHUNKS * n


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def striding(count: int, limit: int = MAX_BLOCKS) -> tuple[Dim, Dim]:
    """Grid and block of a one-dimensional kernel over `count` elements."""
    return (min(ceil(count, THREADS), limit),), (THREADS,)


def _by_warps(m: int, limit: int = MAX_BLOCKS) -> tuple[Dim, Dim]:
    """Grid and block of a kernel that gives each row to one warp."""
    return (min(ceil(m, THREADS // WARP), limit),), (THREADS,)


def by_rows(m: int, n: int) -> tuple[Dim, Dim]:
    """Grid and block of a two-dimensional kernel over n columns: narrow arrays put more rows into a block."""
    x = min(THREADS, max(8, 1 << (n - 1).bit_length()))
    y = THREADS // x
    return (ceil(n, x), min(ceil(m, y), MAX_ROW_BLOCKS)), (x, y)


def in_chunks(m: int) -> tuple[int, int]:
    """(rows of a chunk, chunks) in which the rows of an array are summed; no chunk is empty."""
    rows = ceil(m, min(ceil(m, ROWS_PER_CHUNK), MAX_CHUNKS))
    return rows, ceil(m, rows)


def by_columns(n: int, chunks: int) -> tuple[Dim, Dim]:
    """Grid and block of a kernel that sums columns: n groups of columns of each chunk."""
    x = min(WARP, 1 << (n - 1).bit_length())
    return (ceil(n, x), chunks), (x, THREADS // x)


def leading(x: Array) -> int:
    """Elements from one row of a matrix to the next: its leading dimension. The stride of a single row, behind which
    nothing comes, may be anything.
    """
    ld = int(x.strides[0]) // int(x.itemsize)
    return ld if x.shape[0] > 1 else max(ld, int(x.shape[1]))


def same_shape(**arrays: Array) -> None:
    """All arrays have the shape of the first."""
    (first, model), *rest = arrays.items()
    for name, x in rest:
        if tuple(x.shape) != tuple(model.shape):
            raise ValueError(f"{name} must have the shape {tuple(model.shape)} of {first}, got {tuple(x.shape)}")


def check_shape(name: str, x: Array, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")


def _fits(name: str, x: Array, least: int) -> None:
    if x.size < least:
        raise ValueError(f"{name} must hold at least {least} elements, got {x.size}")


class Kernels:
    """The kernels on one device."""

    def __init__(self, device: Launcher) -> None:
        self._device = device

    def _launch(self, kernel: str, real: Array, shape: tuple[Dim, Dim], *arguments: Any) -> None:
        grid, block = shape
        if all(grid):  # no rows, nothing to do; an empty grid would be an error
            self._device.launch(kernel, real.dtype.name, grid, block, arguments)

    # ---- forward ------------------------------------------------------------------------------------

    def add_bias(self, z: Array, b: Array) -> None:
        """z := z + b in place; z (m, n), b (n,)."""
        m, n = z.shape
        check_shape("b", b, (n,))
        self._launch("add_bias", z, by_rows(m, n), z, b, m, n)

    def activate(self, g: Any, z: Array, a: Array) -> None:
        """a = g(z), softmax included; overwrites a, which may be z."""
        same_shape(z=z, a=a)
        if is_softmax(g):
            self._launch("softmax", z, _by_warps(z.shape[0]), z, a, *z.shape)
        elif g.of_z:
            self._launch("activate_of_z", z, striding(z.size), z, a, z.size, g.code)
        else:
            self._launch("activate", z, striding(z.size), z, a, z.size, g.code, g.parameter)

    def derivative_of_z(self, g: Any, z: Array, slopes: Array) -> None:
        """slopes := g'(z) of an activation with `of_z`; it may be z."""
        same_shape(z=z, slopes=slopes)
        self._launch("derivative_of_z", z, striding(z.size), z, slopes, z.size, g.code)

    # ---- backward -----------------------------------------------------------------------------------

    def output_delta(
        self,
        g: Any,
        cross_entropy: bool,
        a: Array,
        y: Array,
        delta: Array,
        errors: tuple[int, float] | None = None,
    ) -> None:
        """Overwrites delta (m, n) with the delta of the output layer with activation g; no 1/m. errors: code and
        parameter of a cost of the errors of identity outputs or of poisson, as in costs.cuh; then y are values.
        """
        m, n = a.shape
        same_shape(a=a, delta=delta)
        kind = targets_kind(y, m, n)
        if errors is not None:
            check_shape("y", y, (m, n))
            self._launch("delta_of_errors", a, striding(a.size), a, y, delta, a.size, *errors)
            return
        if is_softmax(g) and not cross_entropy:
            self._launch(f"delta_softmax_{kind}", a, _by_warps(m), a, y, delta, m, n)
            return
        # With cross_entropy the factor g' cancels: delta = a - y, as for the identity, whose code is 0.
        code, slope = (0, 0.0) if cross_entropy else (g.code, g.parameter)
        if kind == "values":
            self._launch("delta_values", a, striding(a.size), a, y, delta, a.size, code, slope)
        else:
            self._launch("delta_classes", a, by_rows(m, n), a, y, delta, m, n, code, slope)

    def times_derivative(self, g: Any, delta: Array, a: Array) -> None:
        """delta := delta * g'(z) in place, from a = g(z); of an activation with `of_z` a is g'(z) itself."""
        same_shape(delta=delta, a=a)
        self._launch("times_derivative", a, striding(a.size), delta, a, a.size, g.code, g.parameter)

    def column_sums(self, x: Array, sums: Array, scratch: Array, *, accumulate: bool) -> None:
        """sums (n,) := or += the sums over the rows of x (m, n); scratch has `scratch_size(n)` elements."""
        m, n = x.shape
        check_shape("sums", sums, (n,))
        _fits("scratch", scratch, scratch_size(n))
        if m == 0:
            if not accumulate:
                raise ValueError("x must have at least one row where sums are overwritten")
            return
        (rows, chunks), groups = in_chunks(m), ceil(n, IN_ONE_ACCESS // x.itemsize)
        if chunks > 1:
            self._launch("column_sums", x, by_columns(groups, chunks), x, leading(x), scratch, m, n, rows, 0)
            x, m = scratch[: chunks * n].reshape(chunks, n), chunks
        self._launch("column_sums", x, by_columns(groups, 1), x, leading(x), sums, m, n, m, int(accumulate))

    # ---- cost ---------------------------------------------------------------------------------------

    def cost(
        self,
        cross_entropy: bool,
        z: Array,
        a: Array,
        y: Array,
        partials: Array,
        totals: Array,
        weights: Array | None = None,
        errors: tuple[int, float] | None = None,
        softmax: bool = False,
    ) -> None:
        """Accumulates: totals[0] += sum over rows of the cost, times weights (m,) if given, totals[1] += hits; partials
        is overwritten.

        softmax: cross_entropy is that of softmax outputs, else that of sigmoid outputs. errors: as for `output_delta`.
        totals (2,) and partials `partials_shape()` are float64. Hits stay 0 for squared_error with values.
        """
        m, n = a.shape
        same_shape(z=z, a=a)
        check_shape("totals", totals, (2,))
        kind = targets_kind(y, m, n)
        if weights is not None:
            check_shape("weights", weights, (m,))
        weighing = (a, 0) if weights is None else (weights, 1)  # what is not read may be any array
        rows = _by_warps(m, REDUCTION_BLOCKS)
        if errors is not None:
            check_shape("y", y, (m, n))
            rows = striding(a.size, REDUCTION_BLOCKS)
            self._reduce("cost_of_errors", z, rows, (z, y, *weighing), (a.size, n, *errors), partials)
        elif not cross_entropy and kind == "values":
            rows = striding(a.size, REDUCTION_BLOCKS)
            self._reduce("cost_squared_values", a, rows, (a, y, *weighing), (a.size, n), partials)
        elif not cross_entropy:
            self._reduce("cost_squared_classes", a, rows, (a, y, *weighing), (m, n), partials)
        elif kind == "classes":
            self._reduce("cost_softmax_cross_entropy", a, rows, (z, a, y, *weighing), (m, n), partials)
        else:
            kernel = "cost_softmax_probabilities" if softmax else "cost_sigmoid_cross_entropy"
            self._reduce(kernel, a, rows, (z, a, y, *weighing), (m, n), partials)
        self._add_partials(a, totals, partials, rows, 1.0)

    def squares_and_nonfinite(self, x: Array, partials: Array, totals: Array, scale: float = 1.0) -> None:
        """Accumulates: totals[0] += scale * sum of x^2 and, if totals is (2,), totals[1] += scale * number of inf
        and NaN.
        """
        shape = striding(x.size, REDUCTION_BLOCKS)
        self._reduce("squares_and_nonfinite", x, shape, (x,), (x.size,), partials)
        self._add_partials(x, totals, partials, shape, scale)

    def _reduce(
        self,
        kernel: str,
        real: Array,
        shape: tuple[Dim, Dim],
        arrays: tuple[Any, ...],
        sizes: tuple[float, ...],
        partials: Array,
    ) -> None:
        check_shape("partials", partials, partials_shape())
        self._launch(kernel, real, shape, *arrays, partials, *sizes)

    def _add_partials(self, real: Array, totals: Array, partials: Array, shape: tuple[Dim, Dim], scale: float) -> None:
        (blocks,), _ = shape
        if blocks:
            self._launch("add_partials", real, (totals.shape, (THREADS,)), totals, partials, blocks, scale)


def is_softmax(g: Any) -> bool:
    return not g.elementwise


def cross_entropy_of(g: Any, kind: str) -> str:
    """What kernels call the cross-entropy of outputs g with targets of this kind."""
    if not is_softmax(g):
        return "sigmoid_cross_entropy"
    return "softmax_cross_entropy" if kind == "classes" else "softmax_probabilities"


def targets_kind(y: Array, m: int, n: int) -> str:
    """ "classes" or "values", whichever y is."""
    if y.ndim == 1:
        check_shape("y", y, (m,))
        return "classes"
    check_shape("y", y, (m, n))
    return "values"
