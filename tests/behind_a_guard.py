"""A program: trains and predicts from arrays between two pages that may not be touched, so that one number read too
many ends the process.
"""

import ctypes
import mmap

import numpy as np

import fastnn
from fastnn.kernels.cpu.amx import missing

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype, libc.mmap.argtypes = (
    ctypes.c_void_p,
    [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long],
)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE


def guarded(x, *, at_end):
    """A copy of x whose last byte (or first) touches a page without access. Its memory is never given back."""
    pages = -(-x.nbytes // PAGE)
    base = libc.mmap(
        None, (pages + 2) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    assert base != ctypes.c_void_p(-1).value
    for guard in (base, base + (pages + 1) * PAGE):
        assert libc.mprotect(guard, PAGE, 0) == 0
    address = base + (pages + 1) * PAGE - x.nbytes if at_end else base + PAGE
    copy = np.frombuffer((ctypes.c_char * x.nbytes).from_address(address), x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def same_results(X, y, sizes, dtype, batch_size, **options):
    """Training and predicting give bit for bit what they give on ordinary memory."""
    results = []
    for place in (
        lambda x: x,
        lambda x: guarded(x, at_end=True),
        lambda x: guarded(x, at_end=False),
        lambda x: guarded(x[::-1].copy(), at_end=True)[::-1],
    ):
        net = fastnn.Network(sizes, hidden="tanh", backend=fastnn.get_backend("numba", **options), dtype=dtype, seed=1)
        x = place(X)
        net.fit(x, place(y), optimizer="sgd", learning_rate=0.1, batch_size=batch_size, epochs=2)
        outputs = [
            net.forward(place(np.ascontiguousarray(X[:m], dtype)))[-1]
            if m == 2
            else net.predict_proba(place(np.ascontiguousarray(X[:m], dtype)))
            for m in (1, 2, 70, X.shape[0])
        ]
        results.append([net.theta, *outputs])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


for dtype, kinds in (("float32", ("float32", "int16")), ("float64", ("float64",))):
    for sizes, batch_size in (((1, 5), 7), ((33, 70, 3), 64), ((13, 17, 130, 4), 301)):
        rng = np.random.default_rng(2)
        X, y = rng.uniform(-1, 1, (601, sizes[0])), rng.integers(0, sizes[-1], 601)
        for options in (
            {"threads": 1, "panels": True},
            {"threads": 2, "panels": True},
            {"threads": 2, "panels": False},
        ):
            for kind in kinds:
                same_results(
                    (X * 100).astype(kind) if kind == "int16" else X.astype(kind),
                    y,
                    sizes,
                    dtype,
                    batch_size,
                    **options,
                )
        same_results(X.astype(dtype), y, sizes, dtype, 1, threads=1, panels=True)
        if dtype == "float32" and missing() is None:
            for kind in ("float32", "uint8"):
                same_results((X * 100 + 100).astype(kind), y, sizes, dtype, batch_size, threads=2, amx=True)
if missing() is None:  # predictions of bytes, which the unit reads as they are
    for sizes in ((33, 70, 3), (16, 64, 3), (100, 64, 2)):
        X = np.random.default_rng(3).integers(0, 256, (1100, sizes[0])).astype(np.uint8)
        net = fastnn.Network(sizes, backend="numba", seed=1)
        for at_end in (True, False):
            np.testing.assert_array_equal(net.predict_proba(guarded(X, at_end=at_end)), net.predict_proba(X))
print("nothing beyond was touched")
