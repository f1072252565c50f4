"""Checks and conversion of user input: what an engine takes, or an error of one clear sentence.

X and y are checked for type, shape, range and finiteness before anything else happens, block by
block, so that the temporaries stay small. The first offending row and column are named.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend
from .costs import Pair
from .errors import UnscaledInput

__all__ = ["derivatives", "inputs", "numeric", "targets", "warn_if_coarse", "warn_if_unscaled", "warned_of_table"]

Array = NDArray[Any]
COARSE = 0.01  # of a standard deviation
SUM_IS_ONE = 1e-4  # up to this, of probabilities; float16 rounds more
BLOCK = 1 << 22  # elements converted at a time: 16 MiB of float32


def numeric(argument: str, x: Any, backend: Backend | None = None) -> Any:
    """x as an array of bool, integer or real numbers; arrays on the engine's device become its own, over the same
    memory.

    Raises
    ------
    TypeError
        Strings, objects, complex numbers, ragged lists, sparse matrices, masked arrays.
    ValueError
        Bytes viewed as bool that are neither 0 nor 1, which each engine would read differently.
    """
    if type(x) is np.ndarray and x.dtype.kind in "iuf":  # whatever the engine; the looks below take as long as a step
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{argument} must be a plain array, got a masked one; fill or drop the masked entries first")
    if x is None:
        raise TypeError(f"{argument} must hold real numbers, got None")
    if backend is not None:
        x = backend.adopt(argument, x)
    if not hasattr(x, "__cuda_array_interface__"):
        x = _plain_columns(argument, x)
        if hasattr(x, "toarray") and not isinstance(x, np.ndarray):
            raise TypeError(f"{argument} must be dense, got a sparse {type(x).__name__}; pass {argument}.toarray()")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise TypeError(
                f"{argument} must be a rectangular array of numbers, got a ragged {type(x).__name__}"
            ) from error
        except (TypeError, RuntimeError) as error:  # as a tensor of PyTorch that has a gradient, or is bfloat16
            raise TypeError(f"{argument}, a {type(x).__name__}, cannot become an array of NumPy: {error}") from error
    if x.dtype.kind not in "biuf":
        hint = ""
        if x.dtype.kind == "O" and x.size:
            culprit = next((v for v in x.flat if not isinstance(v, (int, float, np.number, np.bool_))), None)
            if culprit is None and all(v is not None for v in x.flat):
                # columns of different types in a table, or integers beyond 64 bits
                whole = all(isinstance(v, (int, np.integer, np.bool_)) for v in x.flat)
                raise TypeError(
                    f"{argument} must hold real numbers, got dtype object with numbers in it; convert it with "
                    f".astype({'int' if whole else 'float'})"
                )
            hint = f", for example {culprit!r}"
        if argument.endswith("y") and (
            x.dtype.kind in "US" or (x.dtype.kind == "O" and any(isinstance(v, str) for v in x.flat))
        ):
            hint += f"; names of classes become numbers by numpy.unique({argument.split()[-1]}, return_inverse=True)"
        raise TypeError(f"{argument} must hold real numbers, got dtype {x.dtype}{hint}")
    if x.dtype == bool and isinstance(x, np.ndarray) and x.size and x.view(np.uint8).max() > 1:
        raise ValueError(
            f"{argument} holds bool that are neither 0 nor 1, such as bytes viewed as bool by .view(bool); use "
            f"`{argument} != 0` for true booleans"
        )
    return x


def _plain_columns(argument: str, x: Any) -> Any:
    """A DataFrame or Series of pandas' nullable numbers as an array of NumPy, float64 or of the one dtype of all;
    others as they are.

    Raises
    ------
    ValueError
        A value is missing.
    """
    dtypes = getattr(x, "dtypes", None) if hasattr(x, "to_numpy") else None
    if dtypes is None:
        return x
    kinds = [getattr(dtype, "numpy_dtype", dtype) for dtype in (dtypes if hasattr(dtypes, "__iter__") else [dtypes])]
    if not any(hasattr(dtype, "numpy_dtype") for dtype in (dtypes if hasattr(dtypes, "__iter__") else [dtypes])):
        return x
    if not all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in kinds):
        return x
    missing = np.asarray(x.isna())
    if missing.any():
        raise ValueError(f"{argument} has a missing value at {_locate(missing, 0)}; fill it, or drop the row")
    return x.to_numpy(dtype=kinds[0] if len(set(kinds)) == 1 else np.float64)


def _locate(bad: Array, first_row: int) -> str:
    """'row 3, column 7' or 'row 3' of the first True."""
    position = np.argwhere(bad)[0]
    row = f"row {first_row + int(position[0])}"
    return f"{row}, column {int(position[1])}" if bad.ndim == 2 else row


def _always_fits(source: np.dtype[Any], dtype: np.dtype[Any], factor: float | None) -> bool:
    """Whether every finite number of one dtype, times the factor, is finite in the other."""
    if source.kind == "f":
        return source.itemsize <= dtype.itemsize and factor is None
    largest = 1 if source.kind == "b" else np.iinfo(source).max + 1
    return largest * max(1.0, factor or 0.0) <= float(np.finfo(dtype).max)


def _pays_in_place(x: Array) -> bool:
    """Whether to read rows of x, which is not C-contiguous, where they lie.

    Where a row's numbers lie apart (F order), each costs a fetch from memory in every epoch. A copy of
    one block, which is made for the checks anyway, saves that; more would be the copy nobody asked for.
    """
    return x.strides[1] == x.itemsize or x.size > BLOCK


def _convert(
    argument: str,
    x: Any,
    dtype: np.dtype[Any],
    backend: Backend,
    factor: float | None,
    first_row: int = 0,
    keep: Collection[str] = (),
    strided: bool = False,
    beside: int | None = None,
) -> Any:
    """x (m, ...) as a C-contiguous array of the engine and dtype, all finite; x itself if it is one already, or of
    a dtype to keep.
    """
    if not isinstance(x, np.ndarray):  # an array on a device: one look there, details only if something is wrong
        if x.dtype.name in keep and _always_fits(x.dtype, dtype, factor):
            return backend.asarray(x)  # integers, which a program reads as they are
        on_device = backend.asarray(x, dtype)
        if backend.all_finite(on_device):
            return on_device if factor is None else on_device * dtype.type(factor)
        x = backend.to_numpy(backend.asarray(x))
    usable = x.dtype.isnative and x.flags.aligned
    ready = usable and x.flags.c_contiguous and x.dtype == dtype and factor is None
    kept = usable and bool(keep) and x.dtype.name in keep and (x.flags.c_contiguous or (strided and _pays_in_place(x)))
    result = x if ready or kept else np.empty(x.shape, dtype)
    rows = max(1, BLOCK // max(1, x[:1].size))
    as_it_is = ready or (kept and _always_fits(x.dtype, dtype, factor))
    # What is kept is converted only to see that it can be, block after block into the same memory.
    scratch = np.empty((min(rows, x.shape[0]), *x.shape[1:]), dtype) if kept and not as_it_is else None
    for start in range(0, x.shape[0], rows):
        block = x[start : start + rows]
        if x.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
            value = block[~finite][0]
            raise ValueError(f"{argument} must be finite, got {value} at {_locate(~finite, first_row + start)}")
        if as_it_is:
            continue
        target = result[start : start + rows] if scratch is None else scratch[: block.shape[0]]
        with np.errstate(over="ignore", invalid="ignore"):
            target[...] = block
            if factor is not None:
                target *= dtype.type(factor)
        if not (finite := np.isfinite(target)).all():
            times, remedy = (
                ("", "scale the data") if factor is None else (f" times scale={factor:g}", "give a smaller scale")
            )
            raise ValueError(
                f"{argument} holds {block[~finite][0]} at {_locate(~finite, first_row + start)}, which{times} "
                f"overflows {dtype}; {remedy} or use dtype='float64'"
            )
    if beside is not None and result.flags.c_contiguous:
        return backend.as_rows(result, beside)
    # one of other strides is read where it lies
    return backend.asarray(result) if result.flags.c_contiguous else result


def inputs(
    X: Any,
    n_in: int,
    dtype: np.dtype[Any],
    backend: Backend,
    *,
    scale: float | None = None,
    argument: str = "X",
    first_row: int = 0,
    keep: Collection[str] = (),
    strided: bool = False,
    beside: int | None = None,
) -> Any:
    """X as (m, n_in) of the dtype, C-contiguous, on the engine's device; X itself where it is that already.

    Integers and float64 are converted (rounded to the dtype); integers are multiplied by `scale` if given.
    Errors count rows from `first_row`, for callers that go block by block. A C-contiguous array of a
    dtype named in `keep` is checked, but returned as it is, unconverted and unscaled; with `strided` also one
    of other strides, if its rows are contiguous or it is larger than BLOCK. With `beside` rows for a program are
    meant (Backend.as_rows).

    Raises
    ------
    TypeError
        Not an array of real numbers.
    ValueError
        Not two-dimensional, another width, no rows, NaN or infinite (row and column named), or overflowing the dtype.
    """
    X = numeric(argument, X, backend)
    if X.ndim != 2:
        hint = f"; one example is {argument}.reshape(1, -1)" if X.ndim == 1 else ""
        raise ValueError(f"{argument} must have shape (rows, {n_in}), got {tuple(X.shape)}{hint}")
    if X.shape[1] != n_in:
        raise ValueError(f"{argument} must have {n_in} columns, one per input unit, got {X.shape[1]}")
    if X.shape[0] == 0:
        raise ValueError(f"{argument} must have at least one row, got an empty array of shape {tuple(X.shape)}")
    return _convert(
        argument, X, dtype, backend, scale if X.dtype.kind in "iu" else None, first_row, keep, strided, beside
    )


def warn_if_unscaled(X: Any, scale: float | None, stacklevel: int, argument: str = "X") -> None:
    """Warns (`UnscaledInput`) if X holds floats that are whole numbers beyond 1 while the network scales integers: most
    likely pixels that were converted to float somewhere.

    At most the first BLOCK elements of an array on the host are looked at.
    """
    if scale is None or not isinstance(X, np.ndarray) or X.dtype.kind != "f" or X.ndim != 2 or not X.size:
        return
    block = X[: max(1, BLOCK // X.shape[1])]
    top = block.max()
    if 1 < top < np.inf and not (block[np.isfinite(block)] % 1).any():
        warnings.warn(
            f"{argument} holds whole numbers up to {top:g} as {X.dtype}, which are taken as they are: this network "
            f"multiplies integers by scale={scale:g}, not floats. "
            "Pass integers (X.astype(int)), or scale it yourself",
            UnscaledInput,
            stacklevel=stacklevel + 1,
        )


def warn_if_coarse(y: Any, dtype: np.dtype[Any], stacklevel: int) -> None:
    """Warns (`UnscaledInput`) of targets, on the host, whose differences the dtype rounds by more than a hundredth. At
    most the first BLOCK numbers are looked at.
    """
    if not isinstance(y, (np.ndarray, list, tuple)) and not hasattr(y, "to_numpy"):
        return
    values = np.asarray(y)
    if values.dtype.kind not in "iuf" or values.dtype == dtype or not values.size:
        return
    values = values[: max(1, BLOCK // (values.size // len(values)))].reshape(-1, values.size // len(values))
    values = values.astype(np.float64)
    rounding, spread = np.abs(values).max(axis=0) * np.finfo(dtype).eps / 2, values.std(axis=0)
    vary = values.max(axis=0) > values.min(axis=0)  # the mean of equal numbers is rounded, and leaves a spread
    if (coarse := vary & (spread > 0) & (rounding > COARSE * spread)).any():
        column = int(np.argmax(coarse))
        which = f"column {column} of y" if values.shape[1] > 1 else "y"
        warnings.warn(
            f"{which} is {values[:, column].mean():g} +- {spread[column]:g}, which {dtype} tells apart to "
            f"{rounding[column]:.2g} only: subtract its mean and divide by its standard deviation, or use "
            "dtype='float64'",
            UnscaledInput,
            stacklevel=stacklevel + 1,
        )


def warned_of_table(preprocessing: Mapping[str, Any], stacklevel: int) -> bool:
    """Warns if the network was trained on a table by the command line, and says whether it was: it would answer rows of
    the file, given as they are, as if they were scaled.
    """
    if not isinstance(preprocessing, Mapping) or preprocessing.get("kind") != "table":
        return False
    warnings.warn(
        "this network was trained by `fastnn train` on a table's columns scaled, and takes rows that are scaled; "
        "fastnn.prediction.predict_table(net, columns) takes them as they are, and predict_file a file",
        UnscaledInput,
        stacklevel=stacklevel + 1,
    )
    return True


def targets(y: Any, pair: Pair, m: int, K: int, dtype: np.dtype[Any], backend: Backend, *, argument: str = "y") -> Any:
    """The targets y as an engine takes them, on its device. What is accepted depends on the pair of output and cost:

    - softmax with cross_entropy ("classes"): integers 0..K-1, returned as int64 (m,); or the probability of each class,
      rows that sum to 1, as (m, K) of the dtype.
    - sigmoid with cross_entropy ("probabilities"): numbers in [0, 1], as (m, K) of the dtype.
    - poisson ("counts"): finite numbers >= 0, as (m, K) of the dtype.
    - costs of errors ("values", "numbers"): any finite numbers, as (m, K) of the dtype. With squared_error and K > 1
      also integer classes (m,), which mean their one-hot rows, as int64.

    With K = 1 the last three may be given as (m,).

    Raises
    ------
    TypeError
        Not numbers, or not integers where classes are wanted.
    ValueError
        Another number of rows or columns, classes out of 0..K-1, probabilities out of [0, 1], counts below 0, NaN or
        infinite.
    """
    y = numeric(argument, y, backend)
    if y.ndim not in (1, 2):
        raise ValueError(f"{argument} must have one or two dimensions, got shape {tuple(y.shape)}")
    if y.shape[0] != m:
        raise ValueError(f"{argument} must have one entry per row of X ({m}), got {y.shape[0]}")
    of_classes = pair.targets == "classes" and y.ndim == 2 and y.shape[1] == K
    if (pair.targets == "classes" and not of_classes) or (
        pair.targets == "values" and K > 1 and y.ndim == 1 and y.dtype.kind in "iu"
    ):
        return _classes(y, m, K, backend, argument)
    if y.ndim == 1 and K > 1:
        raise ValueError(f"{argument} must have shape ({m}, {K}), one column per output unit, got ({m},) of {y.dtype}")
    if y.ndim == 2 and y.shape[1] != K:
        raise ValueError(
            f"{argument} must have {K} column{'s' if K > 1 else ''}, one per output unit, got {y.shape[1]}"
        )
    rounding = float(np.finfo(y.dtype).eps) if y.dtype.kind == "f" else 0.0
    y = _convert(argument, y.reshape(m, K), dtype, backend, None)
    if pair.targets == "counts" and bool((below := y < 0).any()):
        where = backend.to_numpy(below)
        raise ValueError(
            f"{argument} must be >= 0 for poisson, got {backend.to_numpy(y)[where][0]} at {_locate(where, 0)}"
        )
    if pair.targets == "probabilities" or of_classes:
        outside = (y < 0) | (y > 1)
        if bool(outside.any()):
            where = backend.to_numpy(outside)
            raise ValueError(
                f"{argument} must lie in [0, 1] for {'softmax' if of_classes else 'sigmoid'} with cross_entropy, got "
                f"{backend.to_numpy(y)[where][0]} at {_locate(where, 0)}"
            )
    if of_classes:
        total = y.sum(axis=1)
        if bool((wrong := abs(total - 1) > max(SUM_IS_ONE, 4 * rounding)).any()):
            where = backend.to_numpy(wrong)
            raise ValueError(
                f"each row of {argument} must sum to 1, as probabilities of the {K} classes do, got "
                f"{backend.to_numpy(total)[where][0]:g} at {_locate(where, 0)}"
            )
    return y


def derivatives(d: Any, m: int, K: int, dtype: np.dtype[Any], backend: Backend) -> Any:
    """The derivatives of a cost by the outputs of m rows as an engine takes them, (m, K) of the dtype, on its device.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        Another shape than (m, K), or (m,) where K = 1; NaN or infinite.
    """
    d = numeric("derivatives", d, backend)
    if tuple(d.shape) != (m, K) and not (K == 1 and tuple(d.shape) == (m,)):
        raise ValueError(
            f"derivatives must have shape ({m}, {K}), one for each row of X and each output, got {tuple(d.shape)}"
        )
    return _convert("derivatives", d.reshape(m, K), dtype, backend, None)


def refuse_only_zeros(y: Any) -> None:
    """ValueError for counts (m, K), in NumPy or on an engine, with a column of nothing but 0: they would pull
    e^z closer to 0 with every step.
    """
    if not bool(((y > 0).sum(axis=0) > 0).all()):
        raise ValueError(
            "y must have a number above 0 in every column for poisson, and one is all 0: its outputs e^z would be 0, "
            "with z at minus infinity"
        )


def _classes(y: Any, m: int, K: int, backend: Backend, argument: str) -> Any:
    if y.ndim != 1:
        column = y.shape[1] == 1
        whole = ".astype(int)" if column and y.dtype.kind not in "biu" else ""
        raise (ValueError if y.dtype.kind in "biu" else TypeError)(
            f"{argument} must be integer classes 0..{K - 1} of shape ({m},), or the probability of each, ({m}, {K}), "
            f"got dtype {y.dtype} and shape {tuple(y.shape)}" + (f"; pass {argument}.ravel(){whole}" if column else "")
        )
    if y.dtype.kind not in "biu":
        if isinstance(y, np.ndarray) and (wrong := ~np.isfinite(y) | (y != np.floor(y))).any():
            raise TypeError(
                f"{argument} must be integer classes 0..{K - 1} of shape ({m},), got dtype {y.dtype} with "
                f"{y[wrong][0]} at {_locate(wrong, 0)}"
            )
        raise TypeError(
            f"{argument} must be integer classes 0..{K - 1} of shape ({m},), got dtype {y.dtype}; pass "
            f"{argument}.astype(int) if they are"
        )
    outside = (y < 0) | (y >= K)
    if bool(outside.any()):
        where = backend.to_numpy(outside) if not isinstance(outside, np.ndarray) else outside
        host = y if isinstance(y, np.ndarray) else backend.to_numpy(y)
        raise ValueError(
            f"{argument} must hold classes 0..{K - 1} (the network has {K} outputs), got {host[where][0]} at "
            f"{_locate(where, 0)}"
        )
    return backend.asarray(y, np.int64)
