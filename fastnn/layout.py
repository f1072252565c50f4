"""The flat vector: where each Theta^(l) lies in theta.

For each layer in turn: its weights (n_out, n_in) row by row, then its biases (n_out,). The
gradient, Delta and every optimizer state have the same layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Layout", "Views"]


class Layout:
    """Offsets of weights and biases for `sizes` = (s_1, ..., s_L).

    Attributes
    ----------
    sizes : tuple of int
        Units per layer, input first.
    size : int
        Number of parameters, sum over layers of n_out * (n_in + 1).
    offsets : ndarray of int64, (L,)
        offsets[l] is where the weights of layer l + 1 (0-based l) begin; the last entry is `size`.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        counts = [n_out * (n_in + 1) for n_in, n_out in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.size = int(self.offsets[-1])
        biases = self.offsets[1:] - np.array(self.sizes[1:], np.int64)
        self._spans = np.ascontiguousarray(np.stack([self.offsets[:-1], biases, self.offsets[1:]], axis=1))

    def __reduce__(self) -> tuple[type[Layout], tuple[tuple[int, ...]]]:
        # Made anew: joblib would give a copy in another process these numbers as read-only memory, which compiled
        # code does not take.
        return Layout, (self.sizes,)

    def split(self, vector: Any) -> tuple[list[Any], list[Any]]:
        """Views of a flat vector (NumPy or CuPy): [weights (n_out, n_in)], [biases (n_out,)].

        Raises
        ------
        ValueError
            The vector is not one-dimensional with `size` entries.
        """
        if vector.ndim != 1 or vector.shape[0] != self.size:
            raise ValueError(
                f"vector must have shape ({self.size},) for sizes {list(self.sizes)}, got {tuple(vector.shape)}"
            )
        weights, biases = [], []
        for layer, (n_in, n_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            start = int(self.offsets[layer])
            weights.append(vector[start : start + n_out * n_in].reshape(n_out, n_in))
            biases.append(vector[start + n_out * n_in : start + n_out * (n_in + 1)])
        return weights, biases

    def spans(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(layers, 3): where each layer's weights begin, where its biases begin, where it ends in the vector; the same
        array at each call.
        """
        return self._spans

    def layer_of(self, index: int) -> tuple[int, str]:
        """(layer 0-based, "weights[r, c]" or "biases[r]") of the parameter at a flat index."""
        layer = int(np.searchsorted(self.offsets, index, side="right")) - 1
        n_in, n_out = self.sizes[layer], self.sizes[layer + 1]
        inside = index - int(self.offsets[layer])
        if inside < n_out * n_in:
            return layer, f"weights[{layer}][{inside // n_in}, {inside % n_in}]"
        return layer, f"biases[{layer}][{inside - n_out * n_in}]"


class Views(Sequence[Any]):
    """The weights or biases of a network, views of its one vector: each is written in place, none is replaced."""

    def __init__(self, name: str, views: list[Any]) -> None:
        self._name, self._views = name, views

    def __getitem__(self, layer: Any) -> Any:
        return self._views[layer]

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return repr(self._views)

    def __setitem__(self, layer: Any, value: Any) -> None:
        if value is not self[layer]:  # which it is after net.weights[0] += 1
            raise TypeError(
                f"net.{self._name}[{layer!r}] cannot be replaced, it is a view of net.theta; write into it: "
                f"net.{self._name}[{layer!r}][...] = values"
            )
