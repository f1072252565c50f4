"""What the operations refuse, on every engine, and that a refusal changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from cases import laid_out, normal
from together import together

from fastnn import optimizers

# operation -> its arguments: a tuple is the shape of an array, anything else is passed as it is
CALLS = {
    "dense_forward": {"a": (5, 7), "W": (3, 7), "b": (3,), "out": (5, 3)},
    "activate": {"activation": "relu", "z": (5, 7), "out": (5, 7)},
    "output_delta": {
        "output": "sigmoid",
        "cost": "squared_error",
        "z": (5, 3),
        "a": (5, 3),
        "y": (5, 3),
        "out": (5, 3),
    },
    "cost_sum": {"output": "sigmoid", "cost": "cross_entropy", "z": (5, 3), "a": (5, 3), "y": (5, 3)},
    "propagate_delta": {"delta": (5, 3), "W": (3, 7), "activation": "tanh", "z": (5, 7), "a": (5, 7), "out": (5, 7)},
    "accumulate": {"Delta_W": (3, 7), "Delta_b": (3,), "delta": (5, 3), "a": (5, 7)},
    "update": {"optimizer": optimizers.SGD(0.1), "theta": (9,), "grad": (9,)},
}
ARRAYS = [
    (operation, name)
    for operation, arguments in CALLS.items()
    for name, value in arguments.items()
    if isinstance(value, tuple)
]
WRONG = {
    "the other float": lambda x: x.astype("float32" if x.dtype == "float64" else "float64"),
    "integers": lambda x: x.astype(np.int64),
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "half precision": lambda x: x.astype(np.float16),
    "a list": lambda x: x.tolist(),
    "None": lambda x: None,
    "a row more": lambda x: np.concatenate([x, x[:1]]),
    "a column more": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "a dimension more": lambda x: x[None],
}


def refused(backend, operation, arguments, error=(TypeError, ValueError), match=None):
    """The call raises, and no array among its arguments has changed."""
    arrays = {name: x for name, x in arguments.items() if backend.is_array(x)}
    before = {name: backend.to_numpy(x).tobytes() for name, x in arrays.items()}
    with pytest.raises(error, match=match):
        getattr(backend, operation)(**arguments)
    assert {name: backend.to_numpy(x).tobytes() for name, x in arrays.items()} == before


def arguments_of(backend, operation, dtype):
    return {
        name: backend.asarray(normal(value, dtype, seed)) if isinstance(value, tuple) else value
        for seed, (name, value) in enumerate(CALLS[operation].items())
    }


@pytest.mark.parametrize(("operation", "name"), ARRAYS)
@together("wrong", WRONG)
def test_wrong_arrays_are_refused(backend, dtype, operation, name, wrong):
    if (name, wrong) == ("out", "None"):
        return  # which says that there is none
    arguments = arguments_of(backend, operation, dtype)
    value = WRONG[wrong](normal(CALLS[operation][name], dtype))
    arguments[name] = backend.asarray(value) if isinstance(value, np.ndarray) else value
    # y may be several things, so what is wrong with it may be its type or its shape
    kind = (TypeError, ValueError) if name == "y" else ValueError if wrong.endswith("more") else TypeError
    steps = getattr(arguments.get("optimizer"), "t", None)
    refused(
        backend,
        operation,
        arguments,
        kind,
        match=None if wrong.startswith("the other") else rf"\b({name}|{'|'.join(CALLS[operation])})\b",
    )
    assert getattr(arguments.get("optimizer"), "t", None) == steps, "a refused update advanced the step counter"


@pytest.mark.parametrize("operation", CALLS)
def test_the_calls_above_are_right_but_for_what_was_made_wrong(backend, dtype, operation):
    arguments = arguments_of(backend, operation, dtype)
    if "optimizer" in arguments:
        arguments["optimizer"] = optimizers.SGD(0.1)
    if operation == "cost_sum":
        arguments["y"] = backend.asarray(np.full((5, 3), 0.5, dtype))
    getattr(backend, operation)(**arguments)


@together(
    ("operation", "aliases"),
    [
        ("dense_forward", ("out", "a")),
        ("dense_forward", ("out", "W")),
        ("output_delta", ("out", "z")),
        ("output_delta", ("out", "a")),
        ("output_delta", ("out", "y")),
        ("propagate_delta", ("out", "delta")),
        ("propagate_delta", ("out", "W")),
        ("propagate_delta", ("out", "z")),
        ("propagate_delta", ("out", "a")),
        ("accumulate", ("Delta_W", "delta")),
        ("accumulate", ("Delta_W", "a")),
        ("update", ("theta", "grad")),
    ],
)
def test_overlapping_memory_is_refused(backend, dtype, operation, aliases):
    """Square shapes throughout, so that nothing but the overlap is wrong. Once the same array, once shifted by a
    row.
    """
    target, source = aliases
    arguments = {
        name: backend.asarray(normal((4,) * len(value), dtype)) if isinstance(value, tuple) else value
        for name, value in CALLS[operation].items()
    }
    refused(backend, operation, {**arguments, target: arguments[source]}, ValueError, "overlap")
    shape = tuple(arguments[source].shape)
    roomy = backend.asarray(normal((5, *shape[1:]), dtype))
    refused(backend, operation, {**arguments, target: roomy[1:], source: roomy[:-1]}, ValueError, "overlap")


def test_accumulate_refuses_sums_that_overlap(backend, dtype):
    arguments = arguments_of(backend, "accumulate", dtype)
    refused(
        backend, "accumulate", arguments | {"Delta_b": arguments["Delta_W"].reshape(-1)[3:6]}, ValueError, "overlap"
    )


def test_activate_refuses_an_overlap_other_than_z_itself(backend, dtype):
    roomy = backend.asarray(normal((6, 7), dtype))
    refused(backend, "activate", {"activation": "relu", "z": roomy[:-1], "out": roomy[1:]}, ValueError, "overlap")


TARGETS = [
    ("dense_forward", "out"),
    ("activate", "out"),
    ("output_delta", "out"),
    ("propagate_delta", "out"),
    ("accumulate", "Delta_W"),
]


@together(
    ("operation", "name", "layout"),
    [
        (*target, layout)
        for target in [*TARGETS, ("accumulate", "Delta_b"), ("update", "theta")]
        for layout in ("strided", "reversed")
    ]
    + [(*target, "transposed") for target in TARGETS],
)
def test_targets_that_are_not_contiguous_are_refused(backend, dtype, operation, name, layout):
    arguments = arguments_of(backend, operation, dtype)
    arguments[name] = laid_out(backend, normal(CALLS[operation][name], dtype), layout)
    refused(backend, operation, arguments, ValueError, f"{name} must be C-contiguous")


@pytest.mark.parametrize(
    ("operation", "name"), [*TARGETS, ("accumulate", "Delta_b"), ("update", "theta"), ("activate", "z")]
)
def test_read_only_targets_are_refused(backend, dtype, operation, name):
    arguments = arguments_of(backend, operation, dtype)
    if not isinstance(arguments[name], np.ndarray):
        pytest.skip("device arrays have no such flag")
    arguments[name].flags.writeable = False
    if name == "z":  # in place
        arguments["out"] = arguments["z"]
    refused(backend, operation, arguments, ValueError, "is read-only")


@together("state", ["none", "short", "long", "other dtype"])
@pytest.mark.parametrize("rule", [optimizers.Momentum, optimizers.Adam])
def test_an_optimizer_without_a_fitting_state_is_refused(backend, dtype, rule, state):
    """A compiled update would write beyond the end of a state that is too short."""
    theta, grad, rule = backend.asarray(normal((9,), dtype)), backend.asarray(normal((9,), dtype, 1)), rule()
    other = np.dtype("float32" if dtype == np.float64 else "float64")
    if state != "none":
        shape, kind = {"short": ((8,), dtype), "long": ((10,), dtype), "other dtype": ((9,), other)}[state]
        rule.bind(backend, lambda: backend.zeros(shape, kind))
    refused(
        backend, "update", {"optimizer": rule, "theta": theta, "grad": grad}, ValueError, "holds no state for a theta"
    )
    assert rule.t == 0


@pytest.mark.parametrize("operation", ["output_delta", "cost_sum"])
@together("classes", [[0, 1, 2, 3, 0], [0, -1, 2, 1, 0], [2**40, 0, 0, 0, 0]])
@together("cost", ["cross_entropy", "squared_error"])
def test_classes_out_of_range_are_refused(backend, dtype, operation, cost, classes):
    z = backend.asarray(normal((5, 3), dtype))
    arguments = {
        "output": "softmax",
        "cost": cost,
        "z": z,
        "a": backend.activate("softmax", z),
        "y": backend.asarray(np.array(classes, np.int64)),
    }
    refused(backend, operation, arguments, ValueError, r"classes 0\.\.2")


def test_names_and_pairs_that_make_no_sense_are_refused(backend, dtype):
    x = backend.asarray(normal((4, 4), dtype))
    y = backend.asarray(np.arange(4))
    refused(backend, "activate", {"activation": "rleu", "z": x}, ValueError, "did you mean 'relu'")
    refused(backend, "activate", {"activation": 3, "z": x}, TypeError, "activation")
    refused(
        backend,
        "propagate_delta",
        {"delta": x, "W": x, "activation": "softmax", "z": x, "a": x},
        ValueError,
        "output layer only",
    )
    for operation in ("output_delta", "cost_sum"):
        refused(
            backend,
            operation,
            {"output": "tanh", "cost": "cross_entropy", "z": x, "a": x, "y": y},
            ValueError,
            "squared_error",
        )
        refused(
            backend,
            operation,
            {"output": "softmax", "cost": "cros_entropy", "z": x, "a": x, "y": y},
            ValueError,
            "did you mean 'cross_entropy'",
        )
        refused(
            backend,
            operation,
            {"output": "softmax", "cost": "cross_entropy", "z": x, "a": x, "y": x[0]},
            TypeError,
            "integer classes",
        )
        refused(
            backend,
            operation,
            {"output": "sigmoid", "cost": "cross_entropy", "z": x, "a": x, "y": y},
            ValueError,
            r"\(4, 4\)",
        )
