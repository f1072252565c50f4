"""The kernel sources: where they are, what they declare, how they are compiled, what arguments they take.

The signatures are read from the `.cu` files themselves, so that nothing has to be kept in step by hand.
Imports NumPy only, and knows nothing of the device on which a kernel runs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

__all__ = [
    "BITS_OF_BFLOAT16",
    "KINDS",
    "Kernel",
    "Parameter",
    "bind",
    "files",
    "kernels",
    "options",
    "read",
    "real",
    "rows_apart",
    "store",
    "text",
]

# The forms in which kernels are compiled: (REAL, in which they compute; STORE, in which activations, deltas and copies
# of weights lie).
KINDS = {"float32": ("float", "float"), "float64": ("double", "double"), "bfloat16": ("float", "bf16")}
# NumPy has no bfloat16: such numbers are handled as their bits.
BITS_OF_BFLOAT16 = np.dtype(np.uint16)

_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(\d+\)\s+)?(\w+)\s*\(([^)]*)\)')
_PARAMETER = re.compile(r"(const\s+)?(REAL|STORE|double|int64|int|uint8)\s*(\*?)\s*(\w+)")
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel: `type` is REAL, STORE, double, int64, int or uint8; `pointer` says it is an array,
    `const` that it is only read.
    """

    name: str
    type: str
    pointer: bool
    const: bool

    def dtype(self, kind: str) -> np.dtype[Any]:
        """The NumPy dtype of the argument, or of the array's elements, in this kind of kernel."""
        if self.type == "STORE":
            return store(kind)
        return (
            real(kind)
            if self.type == "REAL"
            else np.dtype({"double": np.float64, "int64": np.int64, "int": np.int32, "uint8": np.uint8}[self.type])
        )


@dataclass(frozen=True)
class Kernel:
    """A kernel as its source declares it."""

    name: str
    file: str
    parameters: tuple[Parameter, ...]


def files() -> list[str]:
    """Names of the `.cu` files, sorted."""
    return sorted(entry.name for entry in resources.files(__package__).iterdir() if entry.name.endswith(".cu"))


def read(name: str) -> str:
    """The content of one `.cu` or `.cuh` file."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def text(file: str) -> str:
    """A `.cu` file with its own headers in place of their includes, each once: one self-contained source.

    CuPy's cache of compiled kernels looks at the source alone; with `#include` a change in a header would
    go unnoticed and the old kernel would run on.
    """
    seen: set[str] = set()

    def expand(name: str) -> str:
        def header(match: re.Match[str]) -> str:
            if match[1] in seen:
                return ""
            seen.add(match[1])
            after = source.count("\n", 0, match.end()) + 2
            return f'#line 1 "{match[1]}"\n{expand(match[1])}\n#line {after} "{name}"'

        source = read(name)
        return _INCLUDE.sub(header, source).replace("#pragma once\n", "\n")

    return f'#line 1 "{file}"\n{expand(file)}'


@functools.cache
def kernels() -> dict[str, Kernel]:
    """Every kernel by name.

    Raises
    ------
    SyntaxError
        A declaration that this cannot read, or a name used twice.
    """
    found: dict[str, Kernel] = {}
    for file in files():
        source = read(file)
        declared = _KERNEL.findall(source)
        if len(declared) != source.count("__global__"):
            raise SyntaxError(f'{file}: every kernel must read `extern "C" __global__ void name(...)`')
        for name, arguments in declared:
            if name in found:
                raise SyntaxError(f"{file}: kernel {name} is also in {found[name].file}")
            found[name] = Kernel(name, file, tuple(_parameter(file, name, a) for a in arguments.split(",")))
    return found


def _parameter(file: str, kernel: str, declaration: str) -> Parameter:
    match = _PARAMETER.fullmatch(declaration.strip())
    if match is None:
        raise SyntaxError(
            f"{file}: kernel {kernel} takes {declaration.strip()!r}; REAL, STORE, double, int64, int and uint8, and "
            "pointers to them, are known"
        )
    return Parameter(match[4], match[2], bool(match[3]), bool(match[1]))


def real(kind: str) -> np.dtype[Any]:
    """The dtype in which kernels of this kind compute: parameters, Delta, optimizer state."""
    return np.dtype(np.float64 if kind == "float64" else np.float32)


def store(kind: str) -> np.dtype[Any]:
    """The dtype in which activations and deltas lie; uint16 for bfloat16."""
    return BITS_OF_BFLOAT16 if kind == "bfloat16" else real(kind)


def options(kind: str) -> tuple[str, ...]:
    """Compiler options for kernels of this kind; CuPy adds its own (-ftz=true, the architecture)."""
    in_which, stored = KINDS[kind]
    return (f"-DREAL={in_which}", f"-DSTORE={stored}", "-std=c++17")


def bind(kernel: Kernel, kind: str, arguments: Sequence[Any], is_array: Callable[[object], bool]) -> list[Any]:
    """The arguments as the kernel takes them: arrays as they are, numbers as NumPy scalars of the declared type.

    Raises
    ------
    TypeError
        Another number of arguments, something that is no array of the device, or another dtype.
    ValueError
        An array that is not C-contiguous; kernels see memory, not strides. A matrix `x` of a kernel with a parameter
        `x_ld` may have its rows that many elements apart, and must have them so.
    """
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"kernel {kernel.name} takes {len(kernel.parameters)} arguments, got {len(arguments)}")
    given = {p.name: value for p, value in zip(kernel.parameters, arguments, strict=True)}
    return [
        _argument(kernel.name, p, p.dtype(kind), given[p.name], given.get(f"{p.name}_ld"), is_array)
        for p in kernel.parameters
    ]


def rows_apart(x: Any, ld: int) -> bool:
    """Whether x is a matrix whose rows, each without gaps, begin `ld` elements apart."""
    if x.ndim != 2 or (x.shape[1] > 1 and x.strides[1] != x.itemsize):
        return False
    return bool(ld >= x.shape[1] and (x.shape[0] <= 1 or x.strides[0] == ld * x.itemsize))


def _argument(
    kernel: str,
    parameter: Parameter,
    dtype: np.dtype[Any],
    value: Any,
    ld: int | None,
    is_array: Callable[[object], bool],
) -> Any:
    if not parameter.pointer:
        return dtype.type(value)
    if not is_array(value):
        raise TypeError(
            f"kernel {kernel}: {parameter.name} must be an array on the device, got "
            f"{type(value).__module__}.{type(value).__name__}"
        )
    if value.dtype != dtype:
        raise TypeError(f"kernel {kernel}: {parameter.name} must be {dtype}, got {value.dtype}")
    if ld is not None:
        if not rows_apart(value, ld):
            raise ValueError(
                f"kernel {kernel}: {parameter.name} must have its rows {ld} elements apart, got shape "
                f"{tuple(value.shape)} with strides {value.strides}"
            )
    elif not value.flags.c_contiguous:
        raise ValueError(
            f"kernel {kernel}: {parameter.name} must be C-contiguous, got shape {tuple(value.shape)} with strides "
            f"{value.strides}"
        )
    return value
