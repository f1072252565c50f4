"""What a training program works on: the network's layers and views of the arena, by layer and number of rows.

Layers are counted as in `net.weights`: weights l lead from a^(l) to a^(l+1), with a^(0) the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.cuda import sources
from ..kernels.cuda.launchers import MAX_CHUNKS, in_chunks, leading
from ..kernels.cuda.step import StepKernels
from .cupy_arena import Arena
from .cupy_contract import Device
from .cupy_products import Candidate, Product, back, forward, outer, row_ld
from .cupy_tuner import Tuner
from .cupy_update import has_copy, padded

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["Buffers", "Prepared"]

Array = Any
FILL = 1 << 18  # numbers that are made on the host


@dataclass(frozen=True)
class Prepared:
    """A product on its arrays: `work` names it with all that its time depends on; no candidates where it is not
    offered.
    """

    work: str
    candidates: list[Candidate]


class Buffers:
    """Views for one network, at most `rows` rows at a time.

    Rows of every matrix but theta's own, which tf32 and bf16 do not read then, begin at multiples of 16 bytes
    (`row_ld`, `padded`): products are slow otherwise, or not offered. What lies between rows is zero at first, and
    neither read nor written.

    Attributes
    ----------
    weights, biases : lists of arrays
        What products and their epilogues read: views of theta, or of its copy (`has_copy`).
    Delta_W, Delta_b : lists of arrays
        Views of Delta, in the parameters' dtype; it is laid out as the copy.
    per_chunk : int
        Rows summed by one block where biases' gradients are summed by own kernels.
    """

    def __init__(
        self, net: Network, device: Device, arena: Arena, kind: str, compute: str, rows: int, tuner: Tuner
    ) -> None:
        self.net, self.device, self.arena, self.kind, self.compute, self.rows = net, device, arena, kind, compute, rows
        self.kernels = StepKernels(device, kind)
        self._tuner = tuner
        self._prepared: dict[tuple[Any, ...], Prepared] = {}
        self.Delta_W, self.Delta_b = self._split(arena["Delta"])
        self.per_chunk = in_chunks(rows)[0]
        self._chunk_begins = MAX_CHUNKS * np.concatenate([[0], np.cumsum(net.sizes[1:])])
        self.weights, self.biases, self.low = net.weights, net.biases, net.theta
        if has_copy(net.sizes, kind, compute):
            self.low = arena["low"]
            self.weights, self.biases = self._split(self.low)

    def _split(self, vector: Array) -> tuple[list[Array], list[Array]]:
        """Weights and biases of every layer, views of a `padded` vector."""
        sizes, weights, biases = self.net.sizes, [], []
        for n_in, n_out, (begin, ld, beside) in zip(sizes, sizes[1:], padded(sizes)[0], strict=False):
            weights.append(vector[begin : begin + n_out * ld].reshape(n_out, ld)[:, :n_in])
            biases.append(vector[beside : beside + n_out])
        return weights, biases

    # ---- memory ---------------------------------------------------------------------------------------

    def a(self, layer: int, m: int) -> Array:
        """a^(layer) of m rows, the input or a hidden layer."""
        return self.arena[f"a{layer}"][:m, : self.net.sizes[layer]]

    def delta(self, layer: int, m: int) -> Array:
        """delta^(layer) of m rows, (m, units); of the output layer it is first z."""
        units = self.net.sizes[layer]
        ld, turn = row_ld(units, self.kind), (len(self.net.sizes) - 1 - layer) % 2
        return self.arena[f"delta{turn}"][: m * ld].reshape(m, ld)[:, :units]

    def z(self, layer: int, m: int) -> Array:
        """Where the product before layer `layer` goes: a itself, or for the output layer delta."""
        return self.delta(layer, m) if layer == len(self.net.sizes) - 1 else self.a(layer, m)

    def beside(self, layer: int, m: int) -> Array:
        """g'(z) of a hidden layer whose activation has `of_z`, kept beside a^(layer)."""
        return self.arena[f"beside{layer}"][:m, : self.net.sizes[layer]]

    def activate(self, layer: int, m: int) -> None:
        """Of a hidden layer: adds the biases to z, which lies in `a`, and takes g."""
        g, b = self.net.hidden[layer - 1], self.net.biases[layer - 1]
        if g.of_z:
            self.kernels.bias_activate_of_z(g, self.a(layer, m), self.beside(layer, m), b)
        else:
            self.kernels.bias_activate(g, self.a(layer, m), b)

    def derivative_sums(self, layer: int, m: int, *, accumulate: bool, kept: float = 1.0) -> None:
        """delta of a hidden layer times g'(z), and the partial sums of its columns; kept: 1 - p with dropout."""
        g = self.net.hidden[layer - 1]
        known, kept = (self.beside(layer, m), 1.0) if g.of_z else (self.a(layer, m), kept)
        self.kernels.derivative_sums(
            g, self.delta(layer, m), known, self.chunks(layer - 1), self.per_chunk, accumulate=accumulate, kept=kept
        )

    def mask(self, layer: int, m: int) -> Array:
        return self.arena[f"mask{layer}"][:m]

    def chunks(self, layer: int) -> Array:
        """Partial sums of the bias gradient of weights `layer`."""
        begin, end = self._chunk_begins[layer : layer + 2]
        return self.arena["chunks"][int(begin) : int(end)]

    def chunk_begin(self, layer: int) -> int:
        return int(self._chunk_begins[layer])

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Inside, activations, deltas, masks and the copy of theta hold numbers like those of training, because
        products of zeros are faster; afterwards zeros. Inside `work()`.
        """
        arena, device, rng = self.arena, self.device, np.random.default_rng(0)
        block = rng.standard_normal(FILL).astype(sources.real(self.kind))
        if self.kind == "bfloat16":
            block = (block.view(np.uint32) >> 16).astype(sources.store(self.kind))
        names = [name for name in arena.names if name.rstrip("0123456789") in ("a", "beside", "delta", "mask")]
        for name in names:
            _fill(
                device, arena[name], rng.integers(0, 256, FILL).astype(np.uint8) if name.startswith("mask") else block
            )
        if self.low is not self.net.theta:
            self.kernels.round_theta(self.net.theta, self.low, arena["spans"])
        try:
            yield
        finally:
            for name in names:
                device.clear(arena[name])

    # ---- products, prepared once for each number of rows -------------------------------------------------

    def forward(self, layer: int, m: int, epilogue: str) -> Prepared:
        """From a^(layer) to z, or a, of the next layer."""
        n_in, n_out = self.net.sizes[layer : layer + 2]
        aux = self.mask(layer + 1, m) if epilogue == "RELU_AUX_BIAS" else None
        bias = None if epilogue == "DEFAULT" else self.biases[layer]
        arrays = self.weights[layer], self.a(layer, m), self.z(layer + 1, m)
        return self._prepare(
            forward(m, n_in, n_out, self.kind, self.compute, epilogue, lds=lds(arrays)), arrays, bias, aux
        )

    def back(self, layer: int, m: int, epilogue: str) -> Prepared:
        """delta^(layer) from delta^(layer + 1): without the factor g', or with that of ReLU."""
        n_in, n_out = self.net.sizes[layer : layer + 2]
        aux = self.mask(layer, m) if epilogue in ("DRELU", "DRELU_BGRAD") else None
        bias = self.Delta_b[layer - 1] if epilogue == "DRELU_BGRAD" else None
        arrays = self.weights[layer], self.delta(layer + 1, m), self.delta(layer, m)
        return self._prepare(
            back(m, n_in, n_out, self.kind, self.compute, epilogue, lds=lds(arrays)), arrays, bias, aux
        )

    def outer(self, layer: int, m: int, epilogue: str, *, accumulate: bool = False) -> Prepared:
        """Delta of weights `layer` (+)= delta^T a."""
        n_in, n_out = self.net.sizes[layer : layer + 2]
        bias = self.Delta_b[layer] if epilogue == "BGRADB" else None
        arrays = self.a(layer, m), self.delta(layer + 1, m), self.Delta_W[layer]
        return self._prepare(
            outer(m, n_in, n_out, self.kind, self.compute, epilogue, accumulate, lds=lds(arrays)),
            arrays,
            bias,
            None,
            "workspace_beside",
        )

    def _prepare(
        self,
        product: Product,
        arrays: tuple[Array, Array, Array],
        bias: Array | None,
        aux: Array | None,
        workspace: str = "workspace",
    ) -> Prepared:
        addresses = [None if x is None else self.device.address(x) for x in (*arrays, bias, aux)]
        key = (product, *addresses)
        if key not in self._prepared:
            found = self.device.prepare(product, *arrays, self.arena[workspace], bias=bias, aux=aux)
            if not found and product.epilogue == "DEFAULT" and self.kind != "bfloat16" and self.compute != "tf32":
                found = [Candidate("cuBLAS through CuPy", self._plain(product, *arrays))]
            alignments = ",".join(str(min(256, address & -address)) for address in addresses if address)
            self._prepared[key] = Prepared(f"{product} at {alignments}", found)
        return self._prepared[key]

    def _plain(self, product: Product, A: Array, B: Array, D: Array) -> Any:
        p, beta = product, 1.0 if product.accumulate else 0.0
        return lambda: self.device.gemm(p.op_A, p.op_B, p.m, p.n, p.k, A, p.lda, B, p.ldb, D, p.ldd, beta=beta)

    def fastest(self, work: Prepared, *, measure: bool) -> tuple[Candidate, float]:
        """As `Tuner.best`."""
        return self._tuner.best(work.work, work.candidates, measure=measure)


def _fill(device: Device, x: Array, block: Array) -> None:
    """x, along its first axis, with numbers of the block, again and again."""
    across = int(np.prod(x.shape[1:]))
    done = max(1, min(x.shape[0], len(block) // across))
    device.upload(x[:done], np.resize(block, (done, *x.shape[1:])))
    while done < x.shape[0]:
        more = min(done, x.shape[0] - done)
        device.copy(x[done : done + more], x[:more])
        done += more


def lds(arrays: tuple[Array, Array, Array]) -> tuple[int, int, int]:
    """Leading dimensions of matrices."""
    A, B, D = (leading(x) for x in arrays)
    return A, B, D
