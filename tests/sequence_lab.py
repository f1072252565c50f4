"""Twins of one network, on several engines and in both dtypes, to which tests/test_sequences.py does the same things.

After each of them the twins agree, a copy made before and treated alike has the same bits, and nothing of the caller's
has changed.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import sequence_data as drawn
import tolerances

import fastnn
from fastnn import Diverged, UnfinishedSchedule, callbacks, schedules

# what may be refused of a fit that is made of good arguments, each for itself
REFUSED = (
    "is down to 0 in epoch", "at least one row must be left on each side", "must be > 0 for some row",
    "changes the cost at random", "monitor='val_accuracy' is for classes",
)  # fmt: skip
LISTS = ("cost", "accuracy", "val_cost", "val_accuracy", "learning_rate", "monitored")


class Twin:
    """A network on one engine, and the rule that trains it."""

    def __init__(self, backend, dtype, made, rule):
        (sizes, hidden, output, cost), options = made
        options = options | {"dropout": options["dropout"] * (len(sizes) > 2)}
        hidden = [hidden] * (len(sizes) - 2) if isinstance(hidden, str) else hidden[: len(sizes) - 2]
        self.net = fastnn.Network(
            sizes, hidden=hidden, output=output, cost=cost, backend=backend, dtype=dtype, **options
        )
        self.rule = rule
        self.name = f"{getattr(backend, 'name', backend)} {dtype}"
        self.wide = self.net.dtype == np.float64

    def host(self, vector):
        return np.array(self.net.backend.to_numpy(vector))

    def everything(self):
        net, rule = self.net, self.rule
        vectors = [digest(self.host(v)) for v in (net.theta, *(rule.state if rule.t else []))]
        return (
            vectors, rule.t, repr(rule), rule.rate, rule.first_epoch if rule.t else None, net.epochs_trained, net.scale,
            net.l2, net.dropout, net.optimizer, net._training.busy(), rule.in_use.busy(),
            rule.t and rule.belongs_to(net),
        )  # fmt: skip

    def apart(self, how):
        """A copy that goes on alike."""
        twin = copy.copy(self)
        if self.net.backend.name == "cupy":  # the stand-in, which has no name to be found by
            how = "file"
        if how == "pickle":
            twin.rule, twin.net = pickle.loads(pickle.dumps((self.rule, self.net)))
        elif how == "file":
            course, rate = self.rule.learning_rate, self.rule.rate
            if own := isinstance(course, (schedules.PerEpoch, drawn.Wave)):  # which no file can hold
                self.rule.learning_rate = 0.1
            with tempfile.TemporaryDirectory() as folder:
                self.net.save(Path(folder) / "m", optimizer=self.rule)
                twin.net, twin.rule = fastnn.resume(Path(folder) / "m", backend=self.net.backend)
            for rule in (self.rule, twin.rule) if own else ():
                rule.learning_rate = course
                rule.took(rate)
        else:
            twin.net, twin.rule = copy.deepcopy((self.net, self.rule))
        return twin


def digest(vector):
    return hashlib.sha256(vector.tobytes()).hexdigest()[:16]


def attempt(call):
    """(result, error, warnings)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result, error = call(), None
        except Exception as raised:
            result, error = None, raised
    return result, error, [item.category for item in said if "amx=True is not followed" not in str(item.message)]


def frozen(*values):
    """What the caller's arrays hold, to be compared afterwards."""
    return [np.asarray(value).tobytes() for value in values if value is not None and not isinstance(value, str)]


def same(twin, found, expected, what):
    wrong = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
    assert not wrong, f"{twin.name}: {what}: {wrong}"


class Stop(OSError):
    """What a callback raises that is no Ctrl-C."""


class Lab:
    """The twins, the first of them NumPy's in float64, and what is done to them."""

    def __init__(self, engines, made, rule, rate, clip):
        self.make_rule = lambda: drawn.RULES[rule](drawn.RATES[rate](), clip)
        self.twins = [Twin(backend, dtype, made, self.make_rule()) for backend, dtype in engines]
        self.first = self.twins[0]
        self.kind, self.K = self.first.net.pair.targets, self.first.net.sizes[-1]

    # ---- what is done --------------------------------------------------------------------------------------------

    def rows(self, spec, scaled=False):
        """(X, y, sample_weight) of such rows."""
        top = 255 if self.first.net.scale is not None or scaled else 3
        X = drawn.inputs(spec["form"], spec["seed"], spec["m"], self.first.net.sizes[0], top)
        y = drawn.targets(self.kind, spec["of_y"], spec["seed"], spec["m"], self.K)
        return X, y, drawn.row_weights(spec["weights"], spec["seed"], spec["m"], y)

    def arguments(self, spec):
        """Positional and named arguments of a fit but for the optimizer, of one network after another."""
        net = self.first.net
        scaled = drawn.pixels(spec["data"]["form"]) and (net.scale is not None or spec["scale"])
        X, y, weights = self.rows(spec["data"], scaled)
        m, by_rule, lbfgs = spec["data"]["m"], spec["by"] == "rule", spec["by"] == "lbfgs"
        batch = None if spec["batch"] is None or lbfgs else min(spec["batch"], max(1, int(m * 0.6)))
        options = {
            "epochs": spec["epochs"], "seed": spec["seed"], "batch_size": batch, "shuffle": spec["shuffle"],
            "sample_weight": weights, "micro_batch": spec["micro"] and min(spec["micro"], batch or max(1, m // 2)),
        }  # fmt: skip
        if scaled:
            options["scale"] = net.scale or 1 / 255
        if not by_rule and not lbfgs and spec["rate"] is not None:
            options["learning_rate"] = drawn.RATES[spec["rate"]]()
        if spec["order"] and not lbfgs:
            kept = m - round(m * 0.3) if spec["validation"] == 0.3 else m
            options["order"] = lambda epoch: np.random.default_rng([epoch, 9]).integers(0, kept, kept)
        if isinstance(spec["validation"], str):
            other = dict(spec["data"], seed=spec["data"]["seed"] + 1, m=6, weights=None)
            X_val, y_val, _ = self.rows(other, scaled)
            kind = {"pair": None, "weighted": "array", "balanced": "balanced"}[spec["validation"]]
            of_val = drawn.row_weights(kind, 3, 6, y_val)
            options["validation"] = (X_val, y_val) if of_val is None else (X_val, y_val, of_val)
        else:
            options["validation"] = spec["validation"]
        if spec["patience"] and (spec["validation"] or spec["monitor"] == "function"):
            options["patience"] = spec["patience"]
            options["monitor"] = falling_length if spec["monitor"] == "function" else spec["monitor"]
        return (X, y), options

    def by(self, spec, twin):
        return twin.rule if spec["by"] == "rule" else spec["by"]

    def called(self, spec, number):
        """The callbacks of a fit whose rate is a number or not."""
        if spec["callback"] is None or spec["by"] == "lbfgs":
            return []
        if spec["callback"] == "stop":
            return [lambda epoch, history, net: np.bool_(len(history.cost) >= 2)]
        if spec["callback"] == "reads":
            return [self.reads]
        if not number:
            return [lambda epoch, history, net: None]
        return [callbacks.Plateau(0.5, 1)] if spec["callback"] == "plateau" else [halve]

    def fit(self, spec, copied):
        """The same fit of all twins, and of copies."""
        before, began = self.first.net.epochs_trained, self.first.rule.began(self.first.net)
        (X, y), options = self.arguments(spec)
        caller = (
            X,
            y,
            options["sample_weight"],
            *(options["validation"] if type(options["validation"]) is tuple else ()),
        )
        held, found = frozen(*caller), []
        for twin in self.twins:
            shadow, state = twin.apart(copied), twin.everything()
            if twin.rule.t:
                same(twin, shadow.everything(), state, "a copy is the same")
            outcomes = []
            for one in (twin, shadow):
                rate = one.rule.learning_rate if spec["by"] == "rule" else options.get("learning_rate", 0.1)
                calls = self.called(spec, isinstance(rate, float))
                if spec["callback"] == "reads" and one is shadow:
                    calls = []
                outcomes.append(
                    attempt(
                        lambda one=one, calls=calls: one.net.fit(
                            X, y, optimizer=self.by(spec, one), callbacks=calls, **options
                        )
                    )
                )
            assert frozen(*caller) == held, f"{twin.name}: the caller's arrays are as they were"
            self.same_twice(twin, shadow, *outcomes)
            found.append(outcomes[0])
            self.refused_or_not(twin, outcomes[0], state, before, spec)
        self.agree(found, began, spec, options)

    def reads(self, epoch, history, net):
        """A callback that asks for all there is, and tries what it must not."""
        rule = net.optimizer
        X = drawn.numbers(5, (9, net.sizes[0]))
        y = drawn.targets(self.kind, 0, 5, 9, self.K)
        before = net.backend.to_numpy(net.theta).tobytes()
        D = net.cost_and_gradient(X, y)[1]
        net.mean_cost(X, y), net.score(X, y), net.predict(X), net.logits(X[:1]), net.forward(X), repr(net), net.plan(4)
        net.cost_and_gradient(X[:3], y[:3], micro_batch=2)
        if net.backend.name == "cupy":
            return
        copied = copy.deepcopy(net) if rule is None else copy.deepcopy((net, rule))[0]
        copied.fit(X, y, epochs=1, optimizer="momentum")
        with tempfile.TemporaryDirectory() as folder:
            net.save(Path(folder) / "m")
            fastnn.load(Path(folder) / "m", backend=net.backend).fit(X, y, epochs=1)
        for refused in (
            lambda: net.fit(X, y, epochs=1),
            lambda: net.step(D, fastnn.optimizers.SGD()),
            lambda: setattr(net, "l2", 9.0),
            lambda: setattr(net, "epochs_trained", 9),
        ):
            error = attempt(refused)[1]
            assert isinstance(error, RuntimeError), error
        if rule is not None and rule.slots:
            assert isinstance(attempt(lambda: copied.fit(X, y, epochs=1, optimizer=rule))[1], RuntimeError)
        assert net.optimizer is rule
        assert net.backend.to_numpy(net.theta).tobytes() == before

    def refused_or_not(self, twin, outcome, state, before, spec):
        history, error, said = outcome
        assert set(said) <= {UnfinishedSchedule}, said
        if isinstance(error, Diverged):
            assert np.isfinite(twin.host(twin.net.theta)).all()
            return
        if error is not None:
            assert any(text in str(error) for text in REFUSED), repr(error)
            assert twin.everything() == state, f"{twin.name}: what is refused changes nothing"
            return
        assert not history.interrupted
        epochs = len(history.cost)
        assert twin.net.epochs_trained == before + epochs
        assert epochs <= spec["epochs"]
        if spec["by"] != "lbfgs" and spec["callback"] != "stop" and history.best is None:
            assert epochs == spec["epochs"]
        lengths = {name: len(getattr(history, name)) for name in LISTS} | {"seconds": len(history.seconds)}
        assert set(lengths.values()) <= {0, epochs}, lengths
        assert lengths["seconds"] == epochs
        if history.best is not None and spec["monitor"] == "val_cost":
            assert history.val_cost[history.best] == min(history.val_cost)
        if history.best is not None and spec["monitor"] == "val_accuracy":
            assert history.val_accuracy[history.best] == max(history.val_accuracy)
        if history.best is not None and spec["by"] == "rule":
            assert twin.rule.rate == history.learning_rate[history.best] or spec["callback"] in ("rate", "plateau")

    def same_twice(self, twin, shadow, outcome, of_shadow):
        assert repr(outcome[1]) == repr(of_shadow[1]), twin.name
        assert lists(outcome[0]) == lists(of_shadow[0]), f"{twin.name}: the history of a copy"
        if outcome[1] is None or isinstance(outcome[1], Diverged):
            same(twin, shadow.everything(), twin.everything(), "a copy goes on alike")

    def agree(self, found, began, spec, options):
        """The twins, after a fit."""
        history, error, _ = found[0]
        for twin, (other, its_error, _) in zip(self.twins[1:], found[1:], strict=True):
            if twin.wide or not isinstance(error or its_error, Diverged):
                assert type(its_error) is type(error), (twin.name, error, its_error)
            if history is None or other is None:
                continue
            if twin.wide:
                assert (len(other.cost), other.best) == (len(history.cost), history.best), twin.name
            elif (len(other.cost), other.best) != (len(history.cost), history.best) or spec["by"] == "lbfgs":
                continue  # an accuracy, or a cost that is hardly lower
            self.close(twin, other, history)
        self.level()
        if history is not None and spec["by"] != "lbfgs" and spec["callback"] not in ("rate", "plateau"):
            self.follows(history, began, spec, options)

    def close(self, twin, other=None, history=None):
        """theta and the histories of a twin and of the first."""
        theta, expected = twin.host(twin.net.theta), self.first.host(self.first.net.theta)
        bound = 1e-9 if twin.wide else 5e-3
        tolerances.assert_close(theta, expected, bound * (1 + np.abs(expected).max()), what=twin.name)
        if twin.rule.t == self.first.rule.t:
            for mine, its in zip(self.first.rule.state, twin.rule.state, strict=True):
                its, mine = twin.host(its), self.first.host(mine)
                tolerances.assert_close(its, mine, bound * (1 + np.abs(mine).max()), what=f"the state, {twin.name}")
        for name in LISTS if history is not None else ():
            if twin.wide or name not in ("accuracy", "val_accuracy"):
                np.testing.assert_allclose(
                    getattr(other, name), getattr(history, name), rtol=bound, atol=bound, err_msg=f"{twin.name} {name}"
                )

    def follows(self, history, began, spec, options):
        """The rates are those of the schedule at the last step of each epoch."""
        net, rule = self.first.net, self.first.rule
        course = rule.learning_rate if spec["by"] == "rule" else options.get("learning_rate")
        m = spec["data"]["m"]
        rows = m - round(m * 0.3) if spec["validation"] == 0.3 else m
        steps = -(-rows // (options["batch_size"] or min(128, rows)))
        first = net.epochs_trained - len(history.cost)
        if spec["by"] != "rule":
            began = first
        at = first - began + np.arange(len(history.cost)) + (steps - 1) / steps
        if course is None:
            return
        if isinstance(course, float):
            expected = np.full(len(at), course)
        else:
            course = schedules.get(course)
            expected = course.over(first - began + spec["epochs"]).at(at)
        np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-12)

    def level(self):
        """Theta and state of the first for all, so that differences do not add up."""
        for twin in self.twins[1:]:
            if len(twin.rule.state) != len(self.first.rule.state):
                twin.rule.bind(twin.net, lambda twin=twin: twin.net.backend.zeros(twin.net.theta.shape, twin.net.dtype))
            twin.rule.t, twin.rule.first_epoch = self.first.rule.t, self.first.rule.first_epoch
            twin.net.epochs_trained = self.first.net.epochs_trained
            twin.net.scale = self.first.net.scale
            for to, of in zip(
                (twin.net.theta, *twin.rule.state), (self.first.net.theta, *self.first.rule.state), strict=False
            ):
                twin.net.backend.copyto(to, twin.net.backend.asarray(self.first.host(of).astype(twin.net.dtype)))


def falling_length(net):
    """A monitor of one's own."""
    return -float((net.backend.to_numpy(net.theta) ** 2).sum())


def halve(epoch, history, net):
    net.optimizer.learning_rate = net.optimizer.rate / 2


def lists(history):
    return None if history is None else [getattr(history, name) for name in (*LISTS, "best", "with_l2")]
