"""Many small cases in one test: each of them runs, and a failure says in which it was."""

import pytest
from together import together

seen = []


@pytest.fixture
def ten():
    return 10


@together("a", [1, 2])
@pytest.mark.parametrize("b", [3, 4])
@together(("c", "d"), [(5, 6), (7, 8)])
def test_of_all(ten, a, b, c, d):
    seen.append((ten, a, b, c, d))


def test_every_case_has_run():
    assert sorted(seen) == [(10, a, b, c, c + 1) for a in (1, 2) for b in (3, 4) for c in (5, 7)]


def test_a_failure_names_its_case_and_a_case_may_be_given():
    @together("shape", [(1, 2), (3, 0)])
    def ratio(shape, sign=1):
        done.append(sign * shape[0] / shape[1])

    done = []
    with pytest.raises(ZeroDivisionError) as caught:
        ratio()
    assert caught.value.__notes__ == ["with {'shape': (3, 0)}"]
    ratio((4, 2), sign=-1)
    ratio(shape=(8, 2))
    assert done == [0.5, -2, 4]
    with pytest.raises(AssertionError):
        together("depth", [1])(ratio)
