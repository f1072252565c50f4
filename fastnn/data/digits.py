"""The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries: real data without a download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (1998), its test part; grey values 0..16.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataFileError, pip_install
from .dataset import DataSet

__all__ = ["load"]

PIXEL_SCALE = 1 / 16  # grey values 0..16 to 0..1


def load() -> DataSet:
    """The digits; X uint8 (1797, 64), y int64 (1797,).

    Raises
    ------
    DataFileError
        scikit-learn is not installed; the message has the command.
    """
    try:
        from sklearn.datasets import load_digits  # heavy, and an extra
    except ImportError as error:
        raise DataFileError(
            f"the digits come with scikit-learn, which cannot be imported ({error}): {pip_install('sklearn')}"
        ) from None
    X, y = load_digits(return_X_y=True)
    return DataSet(
        name="digits",
        title="scikit-learn's handwritten digits, 8 x 8 pixels",
        X=X.astype(np.uint8),
        y=y.astype(np.int64),
        classes=list(range(10)),
        scale=PIXEL_SCALE,
        preprocessing={"version": 1, "kind": "images", "shape": [8, 8], "classes": list(range(10))},
    )
