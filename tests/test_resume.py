"""Training that stops and goes on from a file: the same bits as without the pause, on every engine and by every rule; and
what such a file may not hold.
"""

from __future__ import annotations

import dataclasses
import json

import cases
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

import fastnn
from fastnn import ModelFileError, model_file, optimizers, schedules
from fastnn.optimizers import LAMB, LARS, SGD, Adam, Momentum

RULES = {
    "sgd": lambda: SGD(0.1),
    "sgd, falling": lambda: SGD(schedules.Step(0.1, every=2, factor=0.5)),
    "momentum": lambda: Momentum(0.05, momentum=0.8),
    "adam": lambda: Adam(1e-2, beta1=0.8, beta2=0.99, eps=1e-7),
    "adam, warmed up": lambda: Adam(schedules.WarmUp(schedules.Cosine(0.02, epochs=9), epochs=3)),
    "lars": lambda: LARS(2.0, trust=0.01, weight_decay=0.1),
    "lamb": lambda: LAMB(0.02, weight_decay=0.1),
}


def data():
    return cases.normal((23, 4), np.float64), np.arange(23) % 3


def network(backend, dtype="float32", seed=0):
    return fastnn.Network([4, 6, 3], hidden="tanh", l2=0.1, seed=seed, backend=backend, dtype=dtype)


def fit(net, rule, epochs, **options):
    net.fit(*data(), optimizer=rule, epochs=epochs, batch_size=5, seed=3, **options)
    return net


def everything(net, rule):
    to = net.backend.to_numpy
    return to(net.theta).tobytes(), [to(vector).tobytes() for vector in rule.state], rule.t, net.epochs_trained


# ---- going on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_the_same_bits_as_without_the_pause(backend, dtype, name, tmp_path):
    whole, again = RULES[name](), RULES[name]()
    straight = fit(network(backend, dtype), whole, 5)
    fit(network(backend, dtype), again, 2).save(tmp_path / "m", optimizer=again)
    net, rule = fastnn.resume(tmp_path / "m", backend=backend)
    assert (type(rule), repr(rule)) == (type(whole), repr(whole))
    fit(net, rule, 3)
    assert everything(net, rule) == everything(straight, whole)


def test_saved_by_a_callback_amid_a_fit(backend, tmp_path):
    rule, straight = Adam(1e-2), Adam(1e-2)

    def keep(epoch, history, net):
        if epoch == 1:
            net.save(tmp_path / "m", optimizer=rule)

    fit(network(backend), rule, 3, callbacks=[keep])
    whole = fit(network(backend), straight, 4)
    net, rule = fastnn.resume(tmp_path / "m", backend=backend)
    assert (net.epochs_trained, rule.t) == (2, 10)
    fit(net, rule, 2)
    assert everything(net, rule) == everything(whole, straight)


def test_on_another_engine_it_goes_on_from_the_same_numbers(backend, tmp_path):
    rule = Adam(1e-2)
    net = fit(network(backend), rule, 2)
    net.save(tmp_path / "m", optimizer=rule)
    for other in ("numpy", "numba"):
        assert everything(*fastnn.resume(tmp_path / "m", backend=other)) == everything(net, rule)


def test_the_network_alone_is_read_from_such_a_file_as_from_any(tmp_path):
    rule = Adam()
    net = fit(network("numpy"), rule, 1)
    net.save(tmp_path / "m", optimizer=rule)
    loaded = fastnn.load(tmp_path / "m", backend="numpy")
    np.testing.assert_array_equal(loaded.predict_proba(data()[0]), net.predict_proba(data()[0]))


def test_a_rule_that_has_not_begun(tmp_path):
    network("numpy").save(tmp_path / "m", optimizer=Adam(0.5))
    net, rule = fastnn.resume(tmp_path / "m", backend="numpy")
    assert (rule.learning_rate, rule.t, rule.state) == (0.5, 0, [])
    fit(net, rule, 1)
    straight = Adam(0.5)
    assert everything(net, rule) == everything(fit(network("numpy"), straight, 1), straight)


def test_gradient_descent_that_served_another_network_begins_anew(tmp_path):
    """It has no state, so the steps that it took there mean nothing here."""
    rule = SGD(0.1)
    fit(network("numpy"), rule, 1)
    network("numpy", seed=1).save(tmp_path / "m", optimizer=rule)
    assert fastnn.resume(tmp_path / "m", backend="numpy")[1].t == 0


def test_a_schedule_that_is_set_after_the_pause_counts_from_where_the_rule_began(tmp_path):
    """Not from the network's first epoch, though the rate was a number when the file was written."""
    net, rule = fit(network("numpy"), SGD(0.1), 5), Adam(1e-3)
    fit(net, rule, 2)
    net.save(tmp_path / "m", optimizer=rule)
    again, same = fastnn.resume(tmp_path / "m", backend="numpy")
    histories = []
    for of, by in ((net, rule), (again, same)):
        by.learning_rate = schedules.Step(1e-2, every=3, factor=0.1)
        histories.append(of.fit(*data(), optimizer=by, epochs=3, batch_size=8).learning_rate)
    np.testing.assert_allclose(histories[0], [1e-2, 1e-3, 1e-3])  # epochs 2, 3 and 4 of the rule
    assert histories[1] == histories[0]


def test_the_rate_that_a_schedule_gave_last_is_kept_for_steps_of_ones_own(backend, dtype, tmp_path):
    """`net.step` goes by it, or by one that was set for it, and not by the schedule's first."""
    for own in (None, 0.007):
        net, rule = network(backend, dtype), Momentum(schedules.Step(0.1, every=1, factor=0.5))
        fit(net, rule, 3)
        if own is not None:
            rule.rate = own
        net.save(tmp_path / "m", optimizer=rule)
        again, same = fastnn.resume(tmp_path / "m", backend=backend)
        assert same.rate == (0.025 if own is None else own)
        for of, by in ((net, rule), (again, same)):
            of.step(of.cost_and_gradient(*data())[1], by)
        assert everything(again, same) == everything(net, rule)


SCHEDULES = [
    schedules.Constant(0.1),
    schedules.WarmUp(schedules.WarmUp(schedules.Polynomial(0.3, 20, power=1.5, final=0.01), 2, start=0.02), 5),
    schedules.Cosine(1 / 3, 7, final=0.1),
    schedules.Step(0.1, every=2.5),
    schedules.Piecewise((1, 2.5), (0.1, 0.2, 1 / 7)),
    schedules.scaled(0.1, 1024, base_batch=128),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_every_schedule_comes_back(schedule):
    assert schedules.from_config(json.loads(json.dumps(schedules.config(schedule)))) == schedule


# ---- what is refused --------------------------------------------------------------------------------------------


class Own(Adam):
    pass


@dataclasses.dataclass(frozen=True)
class Steady(schedules.Schedule):
    def at(self, epochs):
        return np.full(np.shape(epochs), 0.1)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: "adam", TypeError, r"optimizer must be an instance such as the one that fit was given, got 'adam'"),
        (lambda: Adam, TypeError, r"optimizer must be an instance"),
        (Own, TypeError, r"optimizer=Own\(.*\) is of a class of your own"),
        (lambda: SGD(Steady()), TypeError, r"learning_rate=Steady\(\) is a schedule of your own"),
        ("another's", ValueError, r"optimizer=Adam\(.*\) carries the state of another network"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(make, error, match, tmp_path):
    other = Adam()
    fit(network("numpy", seed=1), other, 1)
    net, path = network("numpy"), tmp_path / "m"
    path.write_bytes(b"as it was")
    with pytest.raises(error, match=match):
        net.save(path, optimizer=other if make == "another's" else make())
    assert path.read_bytes() == b"as it was"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The tensors and the metadata of a file."""
    path, rule = tmp_path_factory.mktemp("resume") / "m", Adam(schedules.Step(0.1, every=2))
    fit(network("numpy"), rule, 1).save(path, optimizer=rule)
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def described(**values):
    def change(tensors, metadata):
        content = json.loads(metadata["optimizer"])
        for name, value in values.items():
            if value is None:
                del content[name]
            else:
                content[name] = value
        metadata["optimizer"] = json.dumps(content)

    return change


def tensor(name, make):
    def change(tensors, metadata):
        value = make(tensors.pop(name))
        if value is not None:
            tensors[name] = value

    return change


def first_is(value):
    return lambda vector: np.r_[np.array([value], vector.dtype), vector[1:]]


DAMAGED = {
    "not JSON": (lambda t, m: m.update(optimizer="{"), "not a usable fastnn model"),
    "a list": (lambda t, m: m.update(optimizer="[]"), "must have the fields"),
    "a field less": (described(t=None), "must have the fields"),
    "a field more": (described(code="import os"), "must have the fields"),
    "an unknown rule": (described(name="os.system"), r"unknown optimizer 'os\.system'"),
    "a rule that is no name": (described(name=["adam"]), "unknown optimizer"),
    "another rule": (described(name="momentum"), "the constants of momentum must be"),
    "constants of another": (described(constants={"beta1": 0.9}), "the constants of adam must be"),
    "a constant out of range": (
        described(constants={"beta1": 2, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.0}),
        "beta1 must be",
    ),
    "no rate": (described(learning_rate=-1), "learning_rate must be"),
    "an unknown schedule": (described(learning_rate={"name": "eval"}), "unknown schedule 'eval'"),
    "a schedule's argument": (described(learning_rate={"name": "Step", "x": 1}), "not a usable fastnn model"),
    "t negative": (described(t=-1), "t must be an integer >= 0"),
    "t a fraction": (described(t=1.5), "t must be an integer >= 0"),
    "no state": (lambda t, m: [t.pop("optimizer.m"), t.pop("optimizer.v")], "the state of adam must be"),
    "half the state": (tensor("optimizer.m", lambda x: None), "the state of adam must be"),
    "more state": (lambda t, m: t.update({"optimizer.w": t["theta"]}), "the state of adam must be"),
    "a shorter state": (tensor("optimizer.v", lambda x: x[1:]), r"optimizer\.v is float32 \(50,\), theta is"),
    "another dtype": (tensor("optimizer.v", lambda x: x.astype(np.float64)), r"optimizer\.v is float64"),
    "NaN": (tensor("optimizer.m", first_is(np.nan)), r"optimizer\.m must be finite, got nan"),
    "another number": (tensor("optimizer.m", first_is(7)), "checksum of the optimizer's state"),
    "state without a rule": (
        lambda t, m: m.pop("optimizer"),
        "must hold the tensor 'theta', and beside it an optimizer's alone",
    ),
    "another tensor": (
        lambda t, m: t.update(x=t["theta"]),
        "must hold the tensor 'theta', and beside it an optimizer's alone",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_with_the_path_and_the_reason(case, saved, tmp_path):
    tensors, metadata, path = dict(saved[0]), dict(saved[1]), tmp_path / "m.safetensors"
    change, match = DAMAGED[case]
    change(tensors, metadata)
    metadata[model_file.CHECKSUM] = model_file._checksum(metadata)  # what is wrong is what the description says
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(ModelFileError, match=match) as caught:
        fastnn.resume(path, backend="numpy")
    assert str(path) in str(caught.value)


def test_the_helper_above_changes_nothing_by_itself(saved, tmp_path):
    (tmp_path / "m").write_bytes(save(*saved))
    assert fastnn.resume(tmp_path / "m", backend="numpy")[1].t == 5


def test_a_file_without_an_optimizer_says_how_one_is_kept(tmp_path):
    network("numpy").save(tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"without an optimizer; net\.save\(path, optimizer=rule\) keeps one"):
        fastnn.resume(tmp_path / "m", backend="numpy")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        fastnn.resume(tmp_path / "absent")


def test_the_rules_of_the_table_can_all_be_kept():
    assert {RULES[name]().name for name in RULES} == set(optimizers.OPTIMIZERS)
