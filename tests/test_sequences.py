"""Random sequences of what a user may do with a network, done to twins of it on several engines and in both dtypes
(tests/sequence_lab.py, tests/sequence_more.py).

Always the same few here. `FASTNN_SEQUENCES=500 pytest tests/test_sequences.py` draws so many others, on more engines,
for a second or two each. A failure prints its sequence.
"""

from __future__ import annotations

import os

import conftest
import pytest
import sequence_data as drawn
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from sequence_more import Laboratory
from sequence_refusals import CALLS

import fastnn
from fastnn import BackendUnavailable

MANY = int(os.environ.get("FASTNN_SEQUENCES", "0"))
COPIES = st.sampled_from(("deepcopy", "pickle", "file"))
# beside NumPy's in float64: engine, its options, dtype
TWINS = {
    "as they come": (("numba", {}, "float64"), ("numpy", {}, "float32"), ("numba", {}, "float32")),
    "slices": (("numba", {"threads": 2, "chunk": 5, "panels": False}, "float64"),
               ("numba", {"threads": 2, "sliced": True, "panels": True}, "float64")),
    "shared layers": (("numba", {"threads": 2, "sliced": False, "panels": True}, "float64"),
                      ("numba", {"threads": 2, "sliced": False, "panels": False}, "float64")),
}  # fmt: skip
if MANY:
    TWINS |= {
        "matrix unit": (("numba", {"amx": True}, "float32"), ("numba", {"amx": True, "chunk": 7}, "float32")),
        "stand-in": (("cupy-on-cpu", {}, "float64"), ("cupy-on-cpu", {}, "float32")),
    }


def engines(kind):
    """(engine, dtype) of each twin, NumPy's first; those that this machine has."""
    found = [("numpy", "float64")]
    for name, options, dtype in TWINS[kind]:
        try:
            found.append((fastnn.get_backend(name, **options) if name == "numba" else conftest.engine(name), dtype))
        except BackendUnavailable:
            assert options.get("amx")
    return found


class Sequences(RuleBasedStateMachine):
    """Every rule is a method of the laboratory, which is kept in a list to be done a second time."""

    @initialize(
        network=st.sampled_from(drawn.NETWORKS),
        options=st.fixed_dictionaries(
            {
                "l2": st.sampled_from((0.0, 0.0, 0.3)),
                "dropout": st.sampled_from((0.0, 0.0, 0.4)),
                "seed": st.integers(0, 3),
            }
        ),
        rule_of=st.tuples(
            st.sampled_from(tuple(drawn.RULES)), st.sampled_from(tuple(drawn.RATES)), st.sampled_from((None, None, 0.5))
        ),
        kind=st.sampled_from(("as they come", *TWINS)),
    )
    def start(self, network, options, rule_of, kind):
        self.done = []
        self.make = lambda: Laboratory(engines(kind), (network, options), *rule_of)
        self.lab = self.make()

    def do(self, name, *arguments):
        self.done.append((name, arguments))
        getattr(self.lab, name)(*arguments)

    @rule(spec=drawn.fits, copied=COPIES)
    def fit(self, spec, copied):
        self.do("fit", spec, copied)

    @rule(spec=drawn.fits, copied=COPIES)
    def fit_by_the_same_rule(self, spec, copied):
        self.do("fit", spec | {"by": "rule"}, copied)

    @rule(spec=drawn.fits, copied=COPIES, first=st.integers(1, 2))
    def fit_in_two(self, spec, copied, first):
        self.do("in_two", spec, copied, first)

    @rule(
        spec=drawn.fits, copied=COPIES, where=st.sampled_from(("order", "callback", "progress", "monitor")),
        kind=st.sampled_from(("interrupt", "error")), after=st.integers(1, 3),
    )  # fmt: skip
    def broken_off(self, spec, copied, where, kind, after):
        self.do("broken_off", spec, copied, where, kind, after)

    @rule(spec=drawn.fits, copied=COPIES)
    def diverge(self, spec, copied):
        self.do("diverge", spec, copied)

    @rule(spec=drawn.fits, copied=COPIES, times=st.integers(1, 3))
    def step(self, spec, copied, times):
        self.do("step", spec, copied, times)

    @rule(
        place=st.sampled_from(("theta", "weights", "biases")),
        seed=st.integers(0, 9),
        factor=st.sampled_from((0.1, 0.5)),
    )
    def write(self, place, seed, factor):
        self.do("write", place, seed, factor)

    @rule(change=drawn.changes)
    def set(self, change):
        self.do("set", *change)

    @rule(how=st.sampled_from(("deepcopy", "pickle", "file", "copy.copy")))
    def replace(self, how):
        self.do("replace", how)

    @rule(spec=drawn.data)
    def predict(self, spec):
        self.do("predict", spec)

    @rule(spec=drawn.data, micro=st.sampled_from((None, 1, 3)))
    def gradient(self, spec, micro):
        self.do("gradient", spec, micro)

    @rule(numbers=st.lists(st.integers(0, len(CALLS) - 1), min_size=1, max_size=6))
    def refused(self, numbers):
        for number in numbers:
            self.do("refused", number)

    def teardown(self):
        """The same sequence from the start gives the same bits."""
        if not getattr(self, "done", None):
            return
        again = self.make()
        for name, arguments in self.done:
            getattr(again, name)(*arguments)
        assert [twin.everything() for twin in again.twins] == [twin.everything() for twin in self.lab.twins]


Sequences.TestCase.settings = settings(
    max_examples=MANY or 12,
    stateful_step_count=16 if MANY else 8,
    derandomize=not MANY,
    phases=(Phase.generate,),  # to make a failure smaller takes minutes
    suppress_health_check=list(HealthCheck),
)
TestSequences = pytest.mark.filterwarnings("ignore:amx=True is not followed")(Sequences.TestCase)
