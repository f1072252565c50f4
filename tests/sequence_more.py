"""What else may be done to the twins of tests/sequence_lab.py: fits broken off, steps, settings, predictions."""

from __future__ import annotations

import copy

import numpy as np
import reference
import sequence_data as drawn
import sequence_refusals
import tolerances
from sequence_lab import REFUSED, Lab, Stop, attempt, frozen, lists, same

from fastnn import Diverged, TrainingInterrupted

EPOCHS = 5  # the place of epochs_trained in Twin.everything


class Breaking:
    """A progress object that raises where it is told to."""

    def __init__(self, error, epochs):
        self.error, self.epochs = error, epochs

    def start(self, epochs, steps): ...
    def advance(self, steps): ...
    def stop(self): ...

    def epoch(self, epoch, history):
        if len(history.cost) == self.epochs:
            raise self.error


class Laboratory(Lab):
    """All operations."""

    def broken_off(self, spec, copied, where, kind, after):
        """A fit that something of the user's ends leaves what a fit that stops there leaves."""
        spec = spec | {"by": "rule", "patience": None, "callback": None, "epochs": 4}
        kind = "error" if where == "monitor" else kind  # Ctrl-C there goes back to the best epoch
        (X, y), options = self.arguments(spec)
        error, own_order = KeyboardInterrupt() if kind == "interrupt" else Stop("story"), options.pop("order", None)
        for twin in self.twins:
            shadow, first = twin.apart(copied), twin.net.epochs_trained
            rows = spec["data"]["m"] - round(spec["data"]["m"] * 0.3) * (spec["validation"] == 0.3)

            def order(epoch, first=first, rows=rows):
                if epoch - first == after:
                    raise error
                return own_order(epoch) if own_order else np.arange(rows)

            def callback(epoch, history, net):
                if len(history.cost) == after:
                    raise error

            def monitor(net, first=first):
                if net.epochs_trained - first == after:
                    raise error
                return 0.0

            own = {"order": order} if where == "order" else {"order": own_order}
            if where == "order" and not own_order:
                options["shuffle"] = False
            if where == "monitor":
                own |= {"monitor": monitor, "patience": 9}
            broken = attempt(
                lambda twin=twin, own=own, callback=callback: twin.net.fit(
                    X, y, optimizer=twin.rule, **options, **own,
                    callbacks=[callback] if where == "callback" else [],
                    progress=Breaking(error, after) if where == "progress" else False,
                )
            )  # fmt: skip
            stopped = attempt(
                lambda shadow=shadow: shadow.net.fit(
                    X, y, optimizer=shadow.rule, order=own_order, **options,
                    callbacks=[lambda epoch, history, net: len(history.cost) == after],
                )
            )  # fmt: skip
            if stopped[1] is not None:
                assert type(broken[1]) is type(stopped[1]), (broken, stopped)
                continue
            if kind == "interrupt":
                assert broken[1] is None, broken
                assert broken[2] == [TrainingInterrupted]
                assert broken[0].interrupted
                assert lists(broken[0]) == lists(stopped[0])
            else:
                assert isinstance(broken[1], Stop), broken
            same(twin, twin.everything(), shadow.everything(), f"broken off by {where}, as one that stops")
        self.level()

    def in_two(self, spec, copied, first):
        """One fit of some epochs, or two one after the other: the same bits."""
        spec = spec | {"by": "rule", "patience": None, "callback": None, "epochs": 3}
        (X, y), options = self.arguments(spec)
        for twin in self.twins:
            if (
                hasattr(twin.rule.learning_rate, "over")
                and twin.rule.learning_rate.over(9) is not twin.rule.learning_rate
            ):
                return  # one without a length ends with the fit that first trains by it
            whole, before = twin.apart(copied), twin.everything()
            history, error, _ = attempt(lambda whole=whole: whole.net.fit(X, y, optimizer=whole.rule, **options))
            if error is not None:
                assert any(text in str(error) for text in REFUSED) or isinstance(error, Diverged), repr(error)
                continue
            parts = [twin.net.fit(X, y, optimizer=twin.rule, **options | {"epochs": n}) for n in (first, 3 - first)]
            same(twin, twin.everything(), whole.everything(), f"in two, from {before}")
            assert lists(history)[:6] == [a + b for a, b in zip(*(lists(part)[:6] for part in parts), strict=True)]
        self.level()

    def step(self, spec, copied, times):
        """Steps of one's own."""
        (X, y), options = self.arguments(spec)
        gradients = []
        for twin in self.twins:
            shadow = twin.apart(copied)
            for _ in range(times):
                for one in (twin, shadow):
                    cost, D = one.net.cost_and_gradient(
                        X, y, sample_weight=options["sample_weight"], micro_batch=options["micro_batch"]
                    )
                    held = frozen(one.host(D))
                    one.net.step(D, one.rule)
                    assert frozen(one.host(D)) == held
            same(twin, shadow.everything(), twin.everything(), "a copy steps alike")
            gradients.append((cost, twin.host(D)))
            self.close(twin)
        self.level()

    def write(self, place, seed, factor):
        """The user writes parameters."""
        for twin in self.twins:
            net = twin.net
            if place == "theta":
                values = drawn.numbers(seed, (net.theta.size,)) * factor
                net.theta[...] = net.backend.asarray(values.astype(net.dtype))
                continue
            layer = seed % len(net.weights)
            views = net.weights if place == "weights" else net.biases
            values = drawn.numbers(seed, views[layer].shape) * factor
            views[layer][...] = net.backend.asarray(values.astype(net.dtype))

    def set(self, name, value):
        """What may be set between fits."""
        for twin in self.twins:
            net, rule = twin.net, twin.rule
            if name in ("l2", "dropout", "epochs_trained"):
                if name != "dropout" or net.hidden:
                    setattr(net, name, value)
            elif name == "rule":
                twin.rule = drawn.RULES[value[0]](drawn.RATES[value[1]](), value[2])
            elif name == "reset":
                rule.reset()
            elif name == "rate":
                rule.learning_rate = drawn.RATES[value]()
            elif name == "clip_norm":
                rule.clip_norm = value
            elif name == "own rate":
                rule.rate = value

    def replace(self, how):
        """Go on with copies."""
        for i, twin in enumerate(self.twins):
            state = twin.everything()
            if how == "copy.copy" and twin.net.backend.name == "cupy":
                continue
            if how == "copy.copy":
                other = copy.copy(twin)
                other.net = copy.copy(twin.net)
                other.net.theta[...] = 0
            else:
                other = twin.apart(how)
                if twin.rule.t:
                    same(twin, other.everything(), state, how)
                self.twins[i] = other
                twin.net.theta[...] = 1
                state = twin.everything() if how != "copy.copy" else state
            same(twin, twin.everything(), state, how)
        self.first = self.twins[0]

    def predict(self, spec):
        """Outputs, as the oracle has them; scores and costs."""
        net = self.first.net
        X, y, weights = self.rows(spec)
        held = frozen(X, y, weights)
        values = np.asarray(X).astype(np.float64)
        if drawn.pixels(spec["form"]) and net.scale is not None:
            values = values * net.scale
        names = [g.name for g in net.activations]
        z, a = reference.forward(self.first.host(net.theta), net.sizes, names, values)
        z, h = z[-1].astype(np.float64), a[-1].astype(np.float64)
        depth = 200 * sum(net.sizes) * (1 + np.abs(values).max()) * (1 + max(np.abs(W).max() for W in net.weights)) ** 2
        for twin in self.twins:
            net, bound = twin.net, depth * np.finfo(twin.net.dtype).eps * (1 + np.abs(z).max())
            tolerances.assert_close(net.logits(X), z, bound, dtype=net.dtype, what=twin.name)
            out = net.predict_proba(X) if net.output.name in ("softmax", "sigmoid") else net.predict(X)
            tolerances.assert_close(
                np.reshape(out, h.shape), h, bound * (1 + np.abs(h).max()), dtype=net.dtype, what=twin.name
            )
            one = [
                net.logits(X[i : i + 1] if not hasattr(X, "iloc") else X.iloc[i : i + 1]) for i in range(min(4, len(z)))
            ]
            tolerances.assert_close(np.concatenate(one), z[:4], bound, what=f"single rows, {twin.name}")
            said = net.predict(X)
            if net.output.name == "softmax":
                np.testing.assert_array_equal(said, np.asarray(out).argmax(axis=1))
            cost = reference.cost(
                self.first.host(self.first.net.theta), net.sizes, names, net.cost, values, drawn.y_of(y, self.K), 0.0
            )
            if weights is None:
                found = net.mean_cost(X, y, l2=False)
                assert abs(found - cost) <= 10 * bound * (1 + abs(cost)) * net.sizes[-1] * (1 + np.abs(h).max()), (
                    twin.name,
                    found,
                    cost,
                )
            score, error, _ = attempt(lambda net=net: net.score(X, y, weights))
            assert error is None, error
            assert np.isfinite(score)
            assert frozen(X, y, weights) == held

    def gradient(self, spec, micro):
        X, y, weights = self.rows(spec)
        held = frozen(X, y, weights)
        net = self.first.net
        values = np.asarray(X).astype(np.float64) * (
            net.scale if drawn.pixels(spec["form"]) and net.scale is not None else 1
        )
        names = [g.name for g in net.activations]
        expected = None
        if weights is None:
            expected = reference.gradient(
                self.first.host(net.theta), net.sizes, names, net.cost, values, drawn.y_of(y, self.K), net.l2
            ).astype(np.float64)
        for twin in self.twins:
            cost, D = twin.net.cost_and_gradient(X, y, sample_weight=weights, micro_batch=micro)
            assert frozen(X, y, weights) == held
            D = twin.host(D)
            if expected is None:
                expected = D
            bound = (1e-10 if twin.wide else 3e-4) * (1 + np.abs(expected).max()) * (1 + np.abs(values).max())
            tolerances.assert_close(D, expected, bound, what=f"the gradient, {twin.name}")
            again = twin.net.cost_and_gradient(X, y, sample_weight=weights, micro_batch=micro)
            assert (again[0], frozen(twin.host(again[1]))) == (cost, frozen(D)), "the same twice"
            J = twin.net.mean_cost(X, y, sample_weight=weights)
            assert abs(J - cost) <= (1e-10 if twin.wide else 1e-4) * (1 + abs(cost)), (twin.name, J, cost)

    def diverge(self, spec, copied):
        """A rate that is far too large: undone, up to where it was finite."""
        (X, y), options = self.arguments(spec | {"by": "rule", "callback": None, "patience": None})
        for twin in self.twins:
            shadow, ends = twin.apart(copied), []
            for one in (twin, shadow):
                one.rule.learning_rate = 1e200 if one.wide else 1e30
            before = twin.everything()
            for one in (twin, shadow):
                ends.append(attempt(lambda one=one: one.net.fit(X, y, optimizer=one.rule, **options)))
                assert all(np.isfinite(one.host(vector)).all() for vector in (one.net.theta, *one.rule.state))
            assert repr(ends[0][1]) == repr(ends[1][1])
            if isinstance(ends[0][1], Diverged):
                epochs = len(ends[0][1].history.cost)
                assert twin.net.epochs_trained == before[EPOCHS] + epochs
                if not epochs:
                    same(twin, twin.everything()[:EPOCHS], before[:EPOCHS], "undone")
            same(twin, shadow.everything(), twin.everything(), "a copy diverges alike")
        values = drawn.numbers(1, (self.first.net.theta.size,)) * 0.25
        for twin in self.twins:
            twin.net.theta[...] = twin.net.backend.asarray(values.astype(twin.net.dtype))
            twin.rule.reset()
            twin.rule.learning_rate = 0.02
        self.level()

    def refused(self, number):
        name, argument, call = sequence_refusals.CALLS[number]
        for twin in self.twins:
            state = twin.everything()
            _, error, said = attempt(lambda twin=twin: call(self, twin))
            assert type(error) in (TypeError, ValueError, AttributeError), (twin.name, name, error)
            assert argument in str(error), (twin.name, name, error)
            assert not said, (name, said)
            same(twin, twin.everything(), state, f"{name} changes nothing")
