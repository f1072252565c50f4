"""Numerical gradient checking: central differences in float64, reported per layer.

N_i = (J(theta + h e_i) - J(theta - h e_i)) / 2h against the analytic D_i, with h = 6e-6, close to
the cube root of the float64 epsilon, where truncation and rounding balance (Press et al.,
Numerical Recipes, 3rd ed., section 5.7). Per layer ||D - N|| / (||D|| + ||N||).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import finite_number
from .network import Network

__all__ = ["GradientReport", "LayerReport", "gradcheck"]

STEP = 6e-6
ALL_PARAMETERS = 20_000  # above this a seeded sample of as many
SMOOTH_BOUND = 1e-6  # expected below this in every layer where g is smooth


@dataclass(frozen=True)
class LayerReport:
    """One layer's comparison; `layer` is the lecture's number 2..L of the layer the parameters lead to."""

    layer: int
    checked: int
    kinks: int
    relative_error: float
    worst: str


@dataclass(frozen=True)
class GradientReport:
    """The result of `gradcheck`; `print(report)` shows the table.

    Attributes
    ----------
    layers : list of LayerReport
    max_relative_error : float
        The largest of the layers' ||D - N|| / (||D|| + ||N||).
    worst : str
        The parameter with the largest |D - N|, for example "weights[0][3, 7]: D = ..., N = ...".
    ok : bool
        Every layer below `bound`.
    sampled : bool
        Only a sample of the parameters was checked.
    kinks : list of str
        Parameters whose +-h crosses a kink of relu or leaky_relu; they are left out of the errors.
    """

    layers: list[LayerReport]
    max_relative_error: float
    worst: str
    ok: bool
    sampled: bool
    bound: float
    total: int
    kinks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = ["layer   checked   at a kink   ||D - N|| / (||D|| + ||N||)   worst parameter"]
        lines += [
            (f"{r.layer:5d} {r.checked:9,d} {r.kinks:11,d}   {r.relative_error:27.2e}   {r.worst}") for r in self.layers
        ]
        if self.sampled:
            lines.append(
                f"a seeded sample of {sum(r.checked + r.kinks for r in self.layers):,} of {self.total:,} parameters "
                "was checked"
            )
        lines.append(f"{'ok' if self.ok else 'FAILED'}: largest {self.max_relative_error:.2e}, bound {self.bound:.0e}")
        return "\n".join(lines)


def gradcheck(
    net: Network,
    X: Any,
    y: Any,
    *,
    step: float = STEP,
    bound: float = SMOOTH_BOUND,
    seed: int = 0,
    verbose: bool = True,
) -> GradientReport:
    """Compare the gradient by the engine's operations with central differences over every parameter, in float64.

    The check runs on a float64 copy of the network on the same engine; `net` is not changed. Above
    20,000 parameters a seeded sample of 20,000 is checked, which the report says. Where +-h moves
    some z of a relu or leaky_relu across 0, the difference is not a derivative: such parameters are
    counted and named apart.

    Parameters
    ----------
    X, y : as for `cost_and_gradient`; a few dozen rows are enough
    step : float
        h > 0.
    bound : float
        `ok` is every layer's error below this.
    verbose : bool
        Print the table.

    Raises
    ------
    TypeError, ValueError
        X, y, step or bound do not fit.
    """
    finite_number("step", step, above=0)
    finite_number("bound", bound, above=0)
    twin = Network(
        net.sizes,
        hidden=list(net.hidden),
        output=net.output,
        cost=net.cost,
        l2=net.l2,
        backend=net.backend,
        dtype="float64",
        init=np.asarray(net.backend.to_numpy(net.theta), np.float64),
    )
    twin.scale = net.scale
    x = twin._inputs(X)
    t = twin._targets(y, x.shape[0])
    rows = x.shape[0]
    D = np.array(twin.backend.to_numpy(twin._cost_and_gradient(x, t, None, rows, rows)[1]))
    total = twin.layout.size
    sampled = total > ALL_PARAMETERS
    chosen = (
        np.sort(np.random.default_rng(seed).choice(total, ALL_PARAMETERS, replace=False))
        if sampled
        else np.arange(total)
    )
    N, kinked = _central_differences(twin, x, t, chosen, step)
    report = _report(twin, D[chosen], N, kinked, chosen, sampled, bound)
    if verbose:
        print(report)
    return report


def _central_differences(net: Network, x: Any, t: Any, chosen: Any, step: float) -> tuple[Any, Any]:
    """N for the chosen parameters, and which of them cross a kink. theta is as it was afterwards."""
    N, kinked = np.empty(chosen.size), np.zeros(chosen.size, bool)
    l2 = net.l2 / x.shape[0]
    for i, index in enumerate(chosen):
        kept = float(net.theta[index])
        net.theta[index] = kept + step
        above = _cost_and_sides(net, x, t, l2)
        net.theta[index] = kept - step
        below = _cost_and_sides(net, x, t, l2)
        net.theta[index] = kept
        taken = (kept + step) - (kept - step)
        if not taken:
            raise ValueError(f"step={step:g} is lost beside a parameter of {kept:g}; give a longer one, such as 1e-5")
        N[i] = (above[0] - below[0]) / taken
        kinked[i] = any(bool((up != down).any()) for up, down in zip(above[1], below[1], strict=True))
    return N, kinked


def _cost_and_sides(net: Network, x: Any, t: Any, l2: float) -> tuple[float, list[Any]]:
    """J, and for each layer with a kink which z are above 0."""
    z, _, a = net._forward(x)
    J = (
        net.backend.cost_sum(net.output, net.cost, z[-1], a[-1], t) / x.shape[0]
        + l2 / 2 * net._sum_of_squared_weights()
    )
    return J, [values > 0 for values, g in zip(z, net.activations, strict=True) if g.kinked]


def _report(net: Network, D: Any, N: Any, kinked: Any, chosen: Any, sampled: bool, bound: float) -> GradientReport:
    layer_of = np.searchsorted(net.layout.offsets, chosen, side="right") - 1
    layers = []
    for layer in range(len(net.weights)):
        use = (layer_of == layer) & ~kinked
        d, n = D[use], N[use]
        size = np.linalg.norm(d) + np.linalg.norm(n)
        error = 0.0 if size == 0 else float(np.linalg.norm(d - n) / size)  # NaN stays NaN
        worst = _describe(net, chosen[use], d, n)
        layers.append(LayerReport(layer + 2, int(use.sum()), int(((layer_of == layer) & kinked).sum()), error, worst))
    largest = float(np.max([r.relative_error for r in layers]))  # keeps NaN, which max() may pass by
    names = [net.layout.layer_of(int(index))[1] for index in chosen[kinked]]
    # NaN must fail: `not <` instead of `>=`, and max() may pass a NaN by.
    ok = all(r.relative_error < bound for r in layers) and any(r.checked for r in layers)
    return GradientReport(
        layers, largest, _describe(net, chosen[~kinked], D[~kinked], N[~kinked]), ok, sampled, bound, net.layout.size,
        names,
    )  # fmt: skip


def _describe(net: Network, indices: Any, D: Any, N: Any) -> str:
    if not indices.size:
        return "none checked"
    i = int(np.argmax(np.nan_to_num(np.abs(D - N), nan=np.inf)))
    return f"{net.layout.layer_of(int(indices[i]))[1]}: D = {D[i]:.9g}, N = {N[i]:.9g}"
