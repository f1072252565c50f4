"""Networks as scikit-learn estimators, for pipelines, cross-validation and searches over hyper-parameters.

    from fastnn.estimators import DenseClassifier
    model = make_pipeline(StandardScaler(), DenseClassifier(hidden=(64, 32)))
    cross_val_score(model, X, y)

Parameters have fastnn's names and meanings, not those of scikit-learn's MLP; what they mean in detail is told by
`fastnn.Network` and `Network.fit`. Wants scikit-learn 1.6 or later (extra `sklearn`), which nothing else in fastnn does
but the digits of the example.
"""

from ..errors import pip_install

try:
    from sklearn.utils.validation import validate_data  # noqa: F401  # since 1.6
except ImportError as error:
    raise ImportError(
        f"fastnn.estimators needs scikit-learn 1.6 or later, which cannot be imported ({error}): "
        f"{pip_install('sklearn')}"
    ) from None

from .classifier import DenseClassifier
from .regressor import DenseRegressor

__all__ = ["DenseClassifier", "DenseRegressor"]
