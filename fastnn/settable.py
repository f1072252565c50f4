"""What may be set of a network, and when: parameters are written in place, what engines were made for is fixed, and a
misspelt name is none.
"""

from __future__ import annotations

from typing import Any

from .errors import natural_number, nearest
from .options import check_scale

__all__ = ["checked"]

# engines keep what they made of these
FIXED = ("sizes", "hidden", "output", "cost", "pair", "dtype", "layout", "backend", "precision")
BETWEEN_FITS = ("l2", "dropout", "scale", "epochs_trained")  # a fit has read them, and counts on them
OTHERS = ("theta", "weights", "biases", "backend_reason", "preprocessing")


def checked(net: Any, name: str, value: Any, *, named: bool) -> Any:
    """The value that `net.name = value` may set. named: whether other names than the network's own are refused, which a
    class of the user's may have.

    Raises
    ------
    AttributeError
        It is fixed, or can only be written into, or there is no such name.
    RuntimeError
        A fit is under way that counts on it.
    TypeError, ValueError
        The value does not fit.
    """
    if name in FIXED and hasattr(net, name):
        raise AttributeError(
            f"net.{name} is fixed once the network is made; make another: Network(sizes, ..., init=net.theta) "
            "takes over parameters where the sizes are the same"
        )
    if name in ("theta", "weights", "biases") and value is not getattr(net, name, None):
        place = "theta" if name == "theta" else f"{name}[0]"
        raise AttributeError(
            f"net.{name} cannot be replaced, because all parameters lie in one vector; write into it, as in "
            f"net.{place}[...] = values"
        )
    if name in BETWEEN_FITS and (under_way := vars(net).get("_training")) is not None and under_way.busy():
        raise RuntimeError(f"net.{name} cannot be set while the network is being trained; set it between fits")
    if name == "scale" and value is not None:
        value = check_scale(value, net.dtype)
    if name == "epochs_trained":
        value = natural_number("epochs_trained", value)
    if named and name not in (*FIXED, *BETWEEN_FITS, *OTHERS) and not name.startswith("_"):
        raise AttributeError(
            f"a network has no {name!r} to be set{nearest(name, BETWEEN_FITS) or '.'} Those are "
            f"{', '.join(BETWEEN_FITS)}; a learning rate belongs to the optimizer"
        )
    return value
