"""A network and its optimizer, copied together and apart."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import warnings
import weakref

import numpy as np
import pytest

import fastnn
from fastnn import optimizers
from fastnn.estimators import DenseClassifier
from fastnn.schedules import Cosine, PerEpoch

TOGETHER = [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))]
X, Y = np.random.default_rng(0).standard_normal((40, 4)), np.arange(40) % 3
RULES = {
    "sgd": lambda: optimizers.SGD(Cosine(0.1, 9)),
    "momentum": lambda: optimizers.Momentum(0.1),
    "adam": lambda: optimizers.Adam(Cosine(0.05, 9), weight_decay=0.1),
    "lars": optimizers.LARS,
    "lamb": optimizers.LAMB,
}


def trained(rule, backend="numpy", epochs=3):
    net = fastnn.Network([4, 6, 3], backend=backend, seed=1)
    net.fit(X, Y, epochs=2, batch_size=16)  # so that the rule's first epoch is not 0
    net.fit(X, Y, optimizer=rule, epochs=epochs, batch_size=16)
    return net


def on(net, rule):
    net.fit(X, Y, optimizer=rule, epochs=2, batch_size=16)
    return [np.array(net.backend.to_numpy(x)).tobytes() for x in (net.theta, *rule.state)], rule.t, net.epochs_trained


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("copied", TOGETHER, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
def test_copied_together_they_go_on_as_the_originals(backend, make, copied):
    """Whichever comes first, and however deep."""
    rule = make()
    net = trained(rule, backend)
    first, second = copied((net, rule)), copied({"rule": [rule], "net": net})
    third = copied([net, {"rule": rule}, net])
    expected = on(net, rule)
    assert expected[1] == 15
    for its_net, its_rule in (first, (second["net"], *second["rule"]), (third[0], third[1]["rule"])):
        assert its_rule.belongs_to(its_net)
        assert its_rule.first_epoch == rule.first_epoch
        assert on(its_net, its_rule) == expected


@pytest.mark.parametrize("copied", TOGETHER, ids=["deepcopy", "pickle"])
def test_copies_are_apart(copied):
    rule = optimizers.Adam()
    net = trained(rule)
    its_net, its_rule = copied((net, rule))
    before = net.theta.tobytes(), rule.state[0].tobytes(), rule.t
    on(its_net, its_rule)
    assert (net.theta.tobytes(), rule.state[0].tobytes(), rule.t) == before
    with pytest.raises(ValueError, match="carries the state of another network"):
        net.fit(X, Y, optimizer=its_rule)


def test_two_runs_are_not_together():
    """The copies of a network and of a rule of another day are no pair, though the originals are."""
    rule = optimizers.Adam()
    net = trained(rule)
    for copied in TOGETHER:
        its_net, its_rule = copied(net), copied(rule)
        assert (its_rule.t, its_rule.state) == (0, [])
        assert not its_rule.belongs_to(its_net)
        words = r"the copy Adam\(.*\) begins anew: the state after 9 steps has stayed"
        with pytest.warns(UserWarning, match=words) as found:
            its_net.fit(X, Y, optimizer=its_rule, epochs=1)
        assert [w.filename for w in found] == [__file__]
        its_net.fit(X, Y, optimizer=its_rule, epochs=1)  # which is said once
    shallow = copy.copy(net), copy.copy(rule)
    assert shallow[1].t == 0
    assert rule.belongs_to(net)
    assert not any(rule.belongs_to(other) for other in shallow)
    again = copy.deepcopy(copy.deepcopy(rule))  # and a copy of a copy remembers it
    with pytest.warns(UserWarning, match="after 9 steps"):
        net.step(np.zeros(net.theta.size, np.float32), again)
    again = copy.deepcopy(rule)
    again.reset()
    fastnn.Network([4, 3], backend="numpy").fit(X, Y, optimizer=again, epochs=1)


def test_another_network_in_the_same_pickle_is_not_the_rules():
    rule, other = optimizers.Adam(), fastnn.Network([4, 6, 3], backend="numpy")
    net = trained(rule)
    for copied in TOGETHER:
        its_other, its_rule = copied((other, rule))
        assert not its_rule.belongs_to(its_other)
        its_other, its_net, its_rule = copied((other, net, rule))
        assert its_rule.belongs_to(its_net)


def test_several_pairs_and_several_rules():
    rules = [optimizers.Adam(), optimizers.Momentum(0.1)]
    pairs = [(trained(rule), rule) for rule in rules]
    for copied in TOGETHER:
        for (net, rule), (its_net, its_rule) in zip(pairs, copied(pairs), strict=True):
            assert type(its_rule) is type(rule)
            assert its_rule.belongs_to(its_net)
            assert its_net.theta.tobytes() == net.theta.tobytes()


def test_nothing_is_kept_of_what_is_gone():
    """Neither a copy keeps the other alive, nor do they keep the state."""
    rule = optimizers.Adam()
    net = trained(rule)
    its_net, its_rule = copy.deepcopy((net, rule))
    there, state = weakref.ref(its_net), weakref.ref(its_rule.state[0])
    del its_net
    gc.collect()
    assert there() is None
    del its_rule
    gc.collect()
    assert state() is None
    del net
    gc.collect()
    alone = copy.deepcopy(rule)  # whose network is gone
    assert alone.t == 0


def test_in_a_callback_a_pair_can_be_kept():
    rule, kept = optimizers.Adam(), []
    net = fastnn.Network([4, 6, 3], backend="numpy", seed=1)
    net.fit(X, Y, optimizer=rule, epochs=3, batch_size=16,
            callbacks=[lambda epoch, history, net: kept.append(copy.deepcopy((net, net.optimizer)))])  # fmt: skip
    its_net, its_rule = kept[0]
    assert its_rule.t == 3
    its_net.fit(X, Y, optimizer=its_rule, epochs=2, batch_size=16)
    assert its_net.theta.tobytes() == net.theta.tobytes()
    assert its_rule.state[1].tobytes() == rule.state[1].tobytes()


def test_amid_a_fit_of_another_thread_the_state_stays():
    """It would be that of another moment than the parameters."""
    rule, pairs = optimizers.Adam(), []
    net = trained(rule)

    def elsewhere(*_):
        thread = threading.Thread(target=lambda: pairs.append(copy.deepcopy((net, rule))))
        thread.start()
        thread.join(60)

    net.fit(X, Y, optimizer=rule, epochs=1, callbacks=[elsewhere])
    its_net, its_rule = pairs[0]
    assert its_rule.t == 0
    with pytest.warns(UserWarning, match="begins anew"):
        its_net.fit(X, Y, optimizer=its_rule, epochs=1)


def test_an_estimator_with_a_function_of_the_epoch_goes_on():
    """Its rule can be copied beside its network, though no file can hold it."""
    model = DenseClassifier((4,), learning_rate=PerEpoch(rate), random_state=0, backend="numpy", epochs=2).fit(X, Y)
    for copied in TOGETHER:
        again = copied(model)
        assert again.optimizer_.t == model.optimizer_.t > 0
        assert again.optimizer_.belongs_to(again.network_)


def rate(epoch):
    return 0.01 / (1 + epoch)


def test_a_rule_with_a_state_as_a_parameter_is_no_news():
    rule = optimizers.Adam()
    trained(rule)
    model = DenseClassifier((4,), optimizer=rule, random_state=0, backend="numpy", epochs=2)
    copy.deepcopy(model).fit(X, Y)
    assert rule.t == 9
