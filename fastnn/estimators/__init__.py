"""Networks as scikit-learn estimators, for pipelines, cross-validation and searches over hyper-parameters.

    from fastnn.estimators import DenseClassifier
    model = make_pipeline(StandardScaler(), DenseClassifier(hidden_layer_sizes=(64, 32)))
    cross_val_score(model, X, y)

Parameters have fastnn's names and meanings, not those of scikit-learn's MLP; `fastnn.Network` and `Network.fit`
document them in detail. Needs scikit-learn 1.6 or later (extra `sklearn`), as nothing else in fastnn does except the
digits of the example.
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
