"""Which rows train, which validate, which test: disjoint; seeded, and by class where there are classes, or the last of
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError, finite_number

__all__ = ["Split", "last_rows", "split_rows"]

Rows = NDArray[np.int64]
# Beside the seed of the user, so that the split does not repeat the random numbers of the weights.
STREAM = 0x5917


@dataclass(frozen=True)
class Split:
    """Row numbers, each (any,) int64 and sorted; every row is in exactly one part.

    Attributes
    ----------
    train, validation, test : ndarray
        A part whose fraction is 0 is empty.
    """

    train: Rows
    validation: Rows
    test: Rows


def split_rows(
    n: int,
    *,
    test: float,
    validation: float,
    seed: int,
    classes: NDArray[np.int64] | None = None,
    names: Sequence[Any] | None = None,
) -> Split:
    """Deal n rows to the three parts.

    Parameters
    ----------
    n : int
        Rows there are.
    test : float
        Fraction of all rows, in [0, 1).
    validation : float
        Fraction of the rows that are not test rows, in [0, 1).
    seed : int
        The same seed gives the same parts on every machine.
    classes : (n,) int64, optional
        With it each part has, to a row, the same share of every class.
    names : sequence, optional
        What class k is called, for messages.

    Raises
    ------
    DataFileError
        Too few rows, or a class with fewer rows than there are parts.
    ValueError, TypeError
        A fraction outside [0, 1).
    """
    test = finite_number("test", test, least=0, below=1)
    validation = finite_number("validation", validation, least=0, below=1)
    rng = np.random.default_rng([seed, STREAM])
    parts = 1 + (test > 0) + (validation > 0)
    groups = (
        [np.arange(n)]
        if classes is None
        else [np.flatnonzero(classes == k) for k in range(int(classes.max()) + 1)]
        if n
        else []
    )
    _refuse_few(n, test, validation)
    for k, group in enumerate(groups):
        if len(group) < parts:
            name = names[k] if names is not None else k
            raise DataFileError(
                f"class {name!r} has {len(group)} row{'s' * (len(group) != 1)}, too few to have one in each of "
                f"{_named(test, validation)}; add rows of it or leave it out"
            )
    groups = [rng.permutation(group) for group in groups]
    sizes = [len(group) for group in groups]
    held_out = _shares(sizes, test, spare=parts - 1)
    rest = [size - held for size, held in zip(sizes, held_out, strict=True)]
    watched = _shares(rest, validation, spare=1)
    picked: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
    for group, t, v in zip(groups, held_out, watched, strict=True):
        for part, rows in zip(picked, (group[t + v :], group[t : t + v], group[:t]), strict=True):
            part.append(rows)
    return Split(*(np.sort(np.concatenate(part)).astype(np.int64) for part in picked))


def last_rows(
    n: int,
    *,
    test: float,
    validation: float,
    classes: NDArray[np.int64] | None = None,
    names: Sequence[Any] | None = None,
) -> Split:
    """The last rows of n test and those before them validate, for rows in the order of time: as scikit-learn's
    `train_test_split(shuffle=False)` twice, but of so many rows as `split_rows` takes.

    Parameters and errors are those of `split_rows`; DataFileError where a class does not occur in training rows.
    """
    test = finite_number("test", test, least=0, below=1)
    validation = finite_number("validation", validation, least=0, below=1)
    _refuse_few(n, test, validation)
    (tested,) = _shares([n], test, spare=1 + (validation > 0))
    (watched,) = _shares([n - tested], validation, spare=1)
    train, watch, last = np.split(np.arange(n, dtype=np.int64), [n - tested - watched, n - tested])
    if classes is not None:
        for k in range(int(classes.max()) + 1):
            if not (classes[train] == k).any():
                name = names[k] if names is not None else k
                first = int(np.argmax(classes == k))
                raise DataFileError(
                    f"class {name!r} first occurs in row {first + 1}, and the first {len(train):,} rows train; it "
                    "cannot be learnt from these: set fewer rows apart, or leave it out"
                )
    return Split(train, watch, last)


def _refuse_few(n: int, test: float, validation: float) -> None:
    parts = 1 + (test > 0) + (validation > 0)
    if n < parts + 1:
        raise DataFileError(
            f"{n} row{'s' * (n != 1)} cannot be split into {_named(test, validation)}; at least {parts + 1} are needed"
        )


def _shares(sizes: list[int], fraction: float, *, spare: int) -> list[int]:
    """How many rows of each group go to a part: round(fraction * total) in all, by largest remainder.

    Every group gives at least one row and keeps at least `spare`, which moves the total where groups are tiny.
    """
    if not fraction:
        return [0] * len(sizes)
    quotas = [size * fraction for size in sizes]
    shares = [int(quota) for quota in quotas]
    missing = round(sum(sizes) * fraction) - sum(shares)
    for k in sorted(range(len(sizes)), key=lambda k: (shares[k] - quotas[k], k))[: max(0, missing)]:
        shares[k] += 1
    return [min(max(1, share), size - spare) for share, size in zip(shares, sizes, strict=True)]


def _named(test: float, validation: float) -> str:
    wanted = ["training", *(["validation"] if validation else []), *(["test"] if test else [])]
    return " and ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted) + " rows"
