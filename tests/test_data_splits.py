"""The split of rows: disjoint, exhaustive, by class, seeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import DataFileError
from fastnn.data.splits import split_rows

QUICK = settings(max_examples=100, deadline=None)
FRACTIONS = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.5, 0.9])


def parts_of(split):
    return split.train, split.validation, split.test


@QUICK
@given(n=st.integers(4, 300), test=FRACTIONS, validation=FRACTIONS, seed=st.integers(0, 1000))
def test_every_row_is_in_exactly_one_part(n, test, validation, seed):
    split = split_rows(n, test=test, validation=validation, seed=seed)
    assert np.sort(np.concatenate(parts_of(split))).tolist() == list(range(n))
    assert len(split.train) > 0
    assert bool(len(split.test)) == (test > 0)
    assert bool(len(split.validation)) == (validation > 0)


@QUICK
@given(counts=st.lists(st.integers(3, 60), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_every_class_is_in_every_part_with_its_share(counts, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    split = split_rows(len(y), test=0.2, validation=0.1, seed=seed, classes=y)
    assert np.sort(np.concatenate(parts_of(split))).tolist() == list(range(len(y)))
    for part in parts_of(split):
        assert set(y[part].tolist()) == set(range(len(counts)))
    for k, count in enumerate(counts):
        assert abs((y[split.test] == k).sum() - 0.2 * count) <= 1


def test_the_held_out_fifth_of_the_digits_sizes():
    y = np.arange(1797) % 10
    split = split_rows(1797, test=0.2, validation=0.1, seed=0, classes=y)
    assert len(split.test) == 359
    assert len(split.validation) == 144


def test_seeds():
    same = [split_rows(50, test=0.2, validation=0.1, seed=3).test.tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != split_rows(50, test=0.2, validation=0.1, seed=4).test.tolist()


def test_too_few_rows():
    with pytest.raises(
        DataFileError, match="3 rows cannot be split into training, validation and test rows; at least 4"
    ):
        split_rows(3, test=0.2, validation=0.1, seed=0)
    with pytest.raises(DataFileError, match="0 rows"):
        split_rows(0, test=0.2, validation=0.0, seed=0, classes=np.zeros(0, np.int64))


def test_a_class_with_too_few_rows_is_named():
    y = np.array([0] * 20 + [1] * 2)
    with pytest.raises(DataFileError, match="class 'rare' has 2 rows, too few"):
        split_rows(22, test=0.2, validation=0.1, seed=0, classes=y, names=["common", "rare"])
    assert len(split_rows(22, test=0.2, validation=0.0, seed=0, classes=y).test) > 0


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan"), "a"])
def test_fractions_out_of_range(bad):
    with pytest.raises((ValueError, TypeError), match="validation must be"):
        split_rows(50, test=0.2, validation=bad, seed=0)
