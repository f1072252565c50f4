"""Where networks of counts (output exp, cost poisson) begin."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks
from .network import Network

__all__ = ["start_at_mean"]


def start_at_mean(net: Network, y: Any, weights: Any = None) -> None:
    """Overwrites the biases of the last layer with the logarithms of the means of the targets y, (m,) or (m, K), whose
    rows count by weights (m,), >= 0 and not all 0. With 0 there the first outputs would be near 1: counts of thousands
    are many steps away from that, or, with long steps, few from where e^z overflows.

    Raises
    ------
    TypeError, ValueError
        y are no targets of poisson, or all 0 in a column (where the weights are not 0).
    """
    t = np.asarray(net.backend.to_numpy(net._targets(y, len(y))), np.float64)
    if weights is not None:
        weights = np.asarray(weights, np.float64) / np.max(weights)  # a sum of the largest overflows
        t, weights = t[weights > 0], weights[weights > 0]
    checks.refuse_only_zeros(t)
    net.biases[-1][...] = net.backend.asarray(np.log(np.average(t, axis=0, weights=weights)).astype(net.dtype))
