"""`Network.fit`: its arguments, their defaults and what they mean, in one place; the work is done in
`fastnn.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .network import Network
    from .optimizers import Optimizer
    from .schedules import Schedule
    from .training import History

__all__ = ["FitMethod"]


class FitMethod:
    """The part of `Network` that trains it; a class of its own for the sake of its length."""

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | Schedule | Callable[[int], float] | None = None,
        batch_size: int | None = None,
        epochs: int = 20,
        shuffle: bool = True,
        order: Callable[[int], Any] | None = None,
        validation: tuple[Any, ...] | float | None = None,
        callbacks: Sequence[Callable[[int, History, Network], Any]] = (),
        progress: Any = False,
        seed: int = 0,
        scale: float | None = None,
        micro_batch: int | None = None,
        patience: int | None = None,
        sample_weight: Any = None,
        monitor: str | Callable[[Network], float] = "val_cost",
    ) -> History:
        """Train on the rows of X.

        Parameters
        ----------
        X : array-like (m, s_1)
            Real numbers, finite; converted to the network's dtype.
        y : array-like
            What is accepted depends on output and cost. Softmax with cross_entropy: classes (m,), integers 0..K-1; or
            the probability of each class, (m, K) in [0, 1] with a sum of 1 in each row (to 1e-4), as smoothed labels
            and the outputs of another network are. Sigmoid with cross_entropy: (m, K) in [0, 1]. Squared error: (m, K)
            of any values, or classes, which mean their one-hot rows. With K = 1 the last two also as (m,).
        optimizer : str or Optimizer
            "sgd", "momentum", "adam", "lars", "lamb" start fresh; an instance keeps its state over several fits,
            and the CPU engine's workspace, up to 64 MiB, stays with the network for the next one. "lbfgs" takes all
            rows at once, for small data: SciPy's L-BFGS-B, at most `epochs` iterations, each an entry of the history
            (cost and accuracy after it, no learning rate); no batch size, learning rate or order.
        learning_rate : float, Schedule or callable, optional
            alpha > 0, or its course over the epochs of the optimizer (fastnn.schedules), one without a length ending
            with this fit; or a function epoch -> alpha, of each of them from 0. None is the rule's own: 0.1 for SGD,
            0.05 for Momentum, 0.001 for Adam, 1 for LARS, 0.01 for LAMB. Not together with an instance.
        batch_size : int, optional
            Rows per step; min(128, rows) if not given. The short last batch is used and divided by its own rows.
        epochs : int
            Epochs of this fit. They are numbered over the network's life, so a second fit goes on.
        shuffle : bool
            Each epoch takes every row once, in the order numpy.random.default_rng([seed, epoch]).permutation(rows).
        order : callable, optional
            epoch -> row numbers of that epoch, instead of shuffling; rows may be repeated or left out. Numbers count
            the training rows.
        validation : (X, y), (X, y, weights) or float, optional
            Rows to evaluate after each epoch; a fraction sets rows of X apart, chosen by the seed. Weights are one
            number per row, or "balanced".
        callbacks : sequence of callables
            f(epoch, history, net) after each epoch, with the epoch's number over the network's life, from 0; all are
            called, and the fit ends where one returned True. They may read the network and change `learning_rate` of an
            instance of an optimizer, not train.
        progress : bool or object
            True shows a live bar on stderr.
        seed : int
            Seed >= 0 of the order of rows and of the choice of validation rows; that of the initial weights is the
            network's own.
        scale : float, optional
            Factor > 0 for integer X (pixels), applied as it is read and kept with the network.
        micro_batch : int, optional
            Rows of a batch taken through the network at a time, at most: the Delta of the parts add up, so the
            step is that of the whole batch (to rounding) in the memory of a part. Without it the engine decides.
        patience : int, optional
            Early stopping: the fit ends after this many epochs in a row without a lower validation cost, and after
            `epochs` at the latest. However it ends, except by an error, parameters and optimizer go back to the epoch
            of the lowest cost (`history.best`); `epochs_trained` counts all epochs that were run. Needs `validation`,
            unless `monitor` is a callable.
        sample_weight : array-like (m,) or "balanced", optional
            How much each row counts, w >= 0: J = (sum w cost + lambda/2 sum Theta^2) / sum w over the training rows, so
            a row of weight 2 is equivalent to two rows. Each step takes the mean over its rows of w / mean(w) times
            their gradients. "balanced": every class has the same total weight. Validation rows that are set apart keep
            their weights; `val_cost` is a weighted mean, accuracies count rows.
        monitor : "val_cost", "val_accuracy" or callable
            What `patience` waits for, and by which the best epoch is told: a lower cost of the validation rows, a
            higher accuracy of them (of classes, and of 0 and 1), or a higher value of f(net) -> float, called after
            each epoch, before the callbacks, and kept in `history.monitored`. Of a figure of which less is better give
            the negative. f may read the network, not train or change it. What is no finite number, NaN too, is an
            error that ends the fit, at the parameters of that epoch.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Bad input; nothing was changed.
        Diverged
            The cost or a parameter stopped being finite. Parameters and optimizer are back at the last finite slice.
        DeviceLost
            The GPU stopped answering. The network is on the NumPy engine, with parameters copied to the host before.
        RuntimeError
            The network is being trained in another thread, or by the fit whose callback this is.
        KeyboardInterrupt
            Ctrl-C before the first step, while data are checked or kernels compiled; nothing was changed. Later it ends
            the fit with a warning, as said below.

        Warns
        -----
        TrainingInterrupted
            Ctrl-C: the last completed step is kept, with `patience` the best epoch, and the history so far returned.
        SymmetricStart
            Hidden units start identical and will stay identical.
        UnfinishedSchedule
            Most of the way down of a schedule lies behind the end of the fit, and `optimizer` is a name, which does not
            go on.
        UnscaledInput
            X holds whole numbers as floats, which are not scaled, for a network with a `scale` for integers; or the
            dtype rounds the differences of the targets by more than a hundredth of their standard deviation.
        """
        from .training import fit

        return fit(
            cast("Network", self),
            X,
            y,
            optimizer=optimizer,
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle,
            order=order,
            validation=validation,
            callbacks=callbacks,
            progress=progress,
            seed=seed,
            scale=scale,
            micro_batch=micro_batch,
            patience=patience,
            sample_weight=sample_weight,
            monitor=monitor,
        )
