"""Defaults for data of few rows, shared by the estimators and by `fastnn train` on tables."""

from __future__ import annotations

__all__ = ["BATCH", "EPOCHS", "HIDDEN", "ITERATIONS", "epochs_of", "l2_of"]

HIDDEN, BATCH = (64, 32), 32
EPOCHS, LEAST_STEPS = 100, 1000
MOST_STEPS, LEAST_EPOCHS = 20_000, 20
ITERATIONS = 200  # of L-BFGS, at most
MOST_L2, L2_PER_ROW = 3.0, 0.01


def epochs_of(rows: int, batch_size: int) -> int:
    """Passes over so many rows: 100; more for few rows, so that there are 1,000 steps, and fewer for many, so that
    there are about 20,000, but at least 20.
    """
    steps = -(-rows // batch_size)
    most = max(LEAST_EPOCHS, MOST_STEPS // steps)
    return max(min(EPOCHS, most), -(-LEAST_STEPS // steps))


def l2_of(rows: float) -> float:
    """lambda of (lambda / 2n) ||Theta||^2 for n rows, or weights of that sum: 3, and n / 100 below 300.

    3 keeps a hundred epochs over hundreds of rows from overfitting, and vanishes with many; with 30 to 100 rows it
    would leave a network that gives every row the same answer.
    """
    return min(MOST_L2, L2_PER_ROW * rows)
