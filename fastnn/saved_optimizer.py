"""An optimizer beside its network in a model file (fastnn/model_file.py), so that training can go on another day.

Its name, constants, learning rate and number of steps are JSON in the metadata; each vector of its state is a tensor
"optimizer." + its slot, of theta's shape and dtype. As everything in the file this is data: rules and schedules are
looked up in fastnn's tables, so one of your own cannot be kept.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import schedules
from .errors import natural_number
from .optimizers import OPTIMIZERS, Optimizer

if TYPE_CHECKING:
    from .network import Network

__all__ = ["PREFIX", "description", "restored"]

Array = np.ndarray[Any, Any]
PREFIX = "optimizer."  # of the tensors' names
OPTIONAL = "clip_norm"  # a constant that is written only where it is used
_FIELDS = {"name", "learning_rate", "constants", "t", "sha256"}


def description(net: Network, rule: Any) -> tuple[str, dict[str, Array]]:
    """(JSON, tensors by name) of a rule that is bound to `net`, or to no network yet.

    Raises
    ------
    TypeError
        It is no optimizer, or it or its schedule is of a class of your own.
    ValueError
        It carries the state of another network.
    """
    if not isinstance(rule, Optimizer):
        raise TypeError(
            f"optimizer must be an instance such as the one that fit was given, got {rule!r} ({type(rule).__name__})"
        )
    if OPTIMIZERS.get(rule.name) is not type(rule):
        raise TypeError(f"optimizer={rule!r} is of a class of your own, which a model file cannot hold")
    own = rule.belongs_to(net)
    if not own and rule.t and rule.slots:
        raise ValueError(f"optimizer={rule!r} carries the state of another network; save it with that")
    tensors: dict[str, Array] = {}
    if own:
        vectors = [np.array(net.backend.to_numpy(vector)) for vector in rule.state]  # see model_file.save
        tensors = {PREFIX + slot: vector for slot, vector in zip(rule.slots, vectors, strict=True)}
    rate = rule.learning_rate
    content = {
        "name": rule.name,
        "learning_rate": schedules.config(rate) if isinstance(rate, schedules.Schedule) else rate,
        "constants": {
            name: value
            for name in _constants(type(rule))
            if (value := getattr(rule, name)) is not None or name != OPTIONAL
        },
        "t": rule.t if own else 0,
        "sha256": _checksum(tensors),
    }
    if own and rule.first_epoch:  # for a schedule, which may be set afterwards
        content["first_epoch"] = rule.first_epoch
    if isinstance(rate, schedules.Schedule) and rule.rate != schedules.first_rate(rate):  # which `Network.step` goes by
        content["rate"] = rule.rate
    return json.dumps(content), tensors


def restored(net: Network, content: str, tensors: Mapping[str, Array]) -> Optimizer:
    """The rule of a file's JSON and tensors, bound to `net` if it had a state.

    Raises
    ------
    ValueError, TypeError, KeyError
        They are not what `description` gives; the caller says which file it is.
    """
    config = json.loads(content)
    fields = set(config) - {"first_epoch", "rate"} if isinstance(config, dict) else set()
    if fields != _FIELDS or not isinstance(config["constants"], dict):
        raise ValueError(f"the optimizer's description must have the fields {sorted(_FIELDS)}")
    if not isinstance(config["name"], str) or config["name"] not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {config['name']!r}")
    kind = OPTIMIZERS[config["name"]]
    if set(config["constants"]) | {OPTIONAL} != set(_constants(kind)):
        raise ValueError(f"the constants of {kind.name} must be {list(_constants(kind))}, got {config['constants']}")
    t, rate = config["t"], config["learning_rate"]
    if isinstance(t, bool) or not isinstance(t, int) or t < 0:
        raise ValueError(f"the optimizer's t must be an integer >= 0, got {t!r}")
    first = natural_number("first_epoch of the optimizer", config.get("first_epoch", 0))
    rule = kind(schedules.from_config(rate) if isinstance(rate, dict) else rate, **config["constants"])
    if "rate" in config:
        rule.rate = config["rate"]
    if not tensors and kind.slots and not t:
        return rule  # saved before its first step
    if set(tensors) != {PREFIX + slot for slot in kind.slots}:
        raise ValueError(f"the state of {kind.name} must be {[PREFIX + s for s in kind.slots]}, got {sorted(tensors)}")
    for name, vector in tensors.items():
        if vector.shape != net.theta.shape or vector.dtype != net.dtype:
            raise ValueError(f"{name} is {vector.dtype} {vector.shape}, theta is {net.dtype} {tuple(net.theta.shape)}")
        if not np.isfinite(vector).all():
            raise ValueError(f"{name} must be finite, got {vector[~np.isfinite(vector)][0]}")
    if _checksum(tensors) != config["sha256"]:
        raise ValueError("the checksum of the optimizer's state does not match; the file is damaged")
    rule.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    for slot, vector in zip(kind.slots, rule.state, strict=True):
        net.backend.copyto(vector, net.backend.asarray(tensors[PREFIX + slot]))
    rule.t, rule.first_epoch = t, first
    return rule


def _constants(kind: type[Optimizer]) -> tuple[str, ...]:
    """Names of a rule's arguments after the learning rate; its attributes have the same names."""
    return tuple(name for name in inspect.signature(kind).parameters if name != "learning_rate")


def _checksum(tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name].tobytes())
    return digest.hexdigest()
