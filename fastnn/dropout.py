"""Dropout: hidden units left out at random in training, so that none relies on a few others.

In each step of `fit` a unit of a row gives 0 with probability p, else a / (1 - p), and its delta is multiplied by the
same factor; predictions and costs of validation take all units as they are. N. Srivastava et al., "Dropout: a simple
way to prevent neural networks from overfitting", JMLR 15 (2014), pages 1933-1934, with the factor in training instead
of in use ("inverted"), section 10.

Whether a unit is left out follows from numbers alone that all engines can count to: of Philox4x32-10 (J. K. Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3) with the key of (seed, epoch) and the counter
(unit div 4, row in the batch, step in the epoch, hidden layer), word unit mod 4 is below p 2^32. So engines, threads
and parts of batches leave the same units out, and a training that is resumed goes on with those it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import finite_number

__all__ = ["Drawn", "check_dropout", "epoch_key", "factors", "limit_of", "philox", "scale_of"]

WORDS = 1 << 32
_LOW, _HALF = np.uint64(WORDS - 1), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# the third word of the key of random numbers of an epoch: [seed, epoch] is that of the order of rows, [seed, 0, 1] that
# of the choice of validation rows
_OF_DROPOUT = 2


def check_dropout(given: Any, hidden: int) -> tuple[float, ...]:
    """p of each of the hidden layers.

    Raises
    ------
    TypeError, ValueError
        Neither one number in [0, 1) nor one for each hidden layer; or more than 0 where there is none.
    """
    if isinstance(given, np.ndarray) and given.ndim == 0:
        given = given.item()
    if isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str):
        if len(given) != hidden:
            raise ValueError(
                f"dropout must be one number, or one for each of the {hidden} hidden layers, got {len(given)} numbers"
            )
        rates = [finite_number(f"dropout[{i}]", rate, least=0, below=1) for i, rate in enumerate(given)]
    else:
        if isinstance(given, bool) or not isinstance(given, Real):
            raise TypeError(
                f"dropout must be a number p, 0 <= p < 1, or one for each hidden layer, got {given!r} "
                f"({type(given).__name__})"
            )
        rate = finite_number("dropout", given, least=0, below=1)
        if rate > 0 and not hidden:
            raise ValueError(f"dropout={rate:g} leaves hidden units out, and this network has none; give 0")
        rates = [rate] * hidden
    return tuple(rates)


def epoch_key(seed: int, epoch: int) -> int:
    """The key of an epoch's random numbers, two words of 32 bits as one int64, the first the lower half."""
    low, high = np.random.SeedSequence([seed, epoch, _OF_DROPOUT]).generate_state(2, np.uint32)
    return int(np.array([low, high], "<u4").view("<i8")[0])


def limit_of(rate: float) -> int:
    """A word below this leaves a unit out: p 2^32, at least 1 where p is more than 0."""
    return min(WORDS - 1, max(round(rate * WORDS), 1)) if rate > 0 else 0


def scale_of(rate: float) -> float:
    """1 / (1 - p), the factor of the units that stay."""
    return 1 / (1 - rate)


def philox(counter: Sequence[Any], key: Sequence[Any]) -> list[NDArray[np.uint64]]:
    """The four words of Philox4x32-10 of counters (four arrays of words that fit together) and a key (two words)."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = (np.asarray(k, np.uint64) for k in key)
    for _ in range(10):
        p, q = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ k0, q & _LOW, (p >> _HALF) ^ c3 ^ k1, p & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return [c0, c1, c2, c3]


@dataclass(frozen=True)
class Drawn:
    """Where in the random numbers a step takes its own: the epoch's key, the step's number in the epoch, and of rows
    that are a part of its batch the number of the first.
    """

    key: int
    step: int
    row: int = 0


def factors(rate: float, drawn: Drawn, layer: int, shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """(m, n): 0 for the units of m rows that are left out, 1 / (1 - p) for the others. layer: from 0, the first hidden
    one.
    """
    m, n = shape
    key = np.array([drawn.key], "<i8").view("<u4").tolist()
    rows, groups = np.arange(drawn.row, drawn.row + m)[:, None], np.arange(-(-n // 4))
    words = np.stack(philox((groups, rows, drawn.step, layer), key), axis=2).reshape(m, -1)[:, :n]
    return np.where(words < limit_of(rate), 0, scale_of(rate)).astype(dtype)
