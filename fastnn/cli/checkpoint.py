"""What `fastnn train` keeps beside its model while it trains: after a crash, --resume goes on from there."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Parts
from ..errors import ModelFileError
from ..model_file import SUFFIX, load, resume
from ..network import Network
from ..optimizers import Optimizer
from ..training import History
from .errors import remark
from .settings import TrainOptions

__all__ = ["Checkpoint"]

KIND, BEST = "checkpoint", ".checkpoint-best"
MAY_CHANGE = ("epochs", "patience", "backend", "checkpoint", "resume")
FOR_PEOPLE = ("interrupted", "best", "with_l2")  # of a history what is no list


class Checkpoint:
    """A callback that writes the network, its optimizer and the history to MODEL.checkpoint.safetensors after an epoch,
    if `every` seconds have passed since it last did, and ends training after `patience` epochs that were no better.

    The best epoch's network is in a file of its own, whose number the other names, so that a crash between the two
    leaves a pair that belongs together.
    """

    def __init__(self, model: Path, options: TrainOptions, parts: Parts) -> None:
        self._base = str(model).removesuffix(SUFFIX)
        self.path = Path(self._base + f".{KIND}{SUFFIX}")
        self.every, self.patience = float(options.checkpoint or 0), options.patience
        self._about: dict[str, Any] = {"options": _kept(options), "data": _fingerprint(parts)}
        self._epochs = options.epochs
        self._written, self._said = time.monotonic(), False
        self._cost, self._theta = float("inf"), np.zeros(0)
        self.earlier, self.history = History(), History()

    def __call__(self, epoch: int, history: History, net: Network) -> bool:
        """After an epoch; True ends the training."""
        self.history = whole = joined(self.earlier, history)
        last, over = len(whole.cost) - 1, False
        if self.patience is not None:
            if whole.val_cost[last] < self._cost:
                self._cost, whole.best = whole.val_cost[last], last
                self._theta = np.array(net.backend.to_numpy(net.theta))
            self.earlier.best = whole.best  # which `joined` hands on
            over = last - (-1 if whole.best is None else whole.best) >= self.patience
        if not over and time.monotonic() - self._written >= self.every:
            self._write(net)
        return over

    def ended(self, net: Network, history: History) -> History:
        """The whole history of a training that has ended, however; the network goes back to its best epoch."""
        whole = joined(self.earlier, history)
        if whole.best is not None:
            net.theta[...] = net.backend.asarray(self._theta)
            if history.interrupted:
                remark("the parameters go back to those of the best epoch")
        return whole

    def remove(self) -> None:
        """Of a training that is complete nothing is left but its model."""
        for path in (self.path, *self._others(None)):
            with contextlib.suppress(OSError):  # it is in nobody's way
                path.unlink()

    def read(self, backend: str) -> tuple[Network, Optimizer]:
        """The network and the optimizer of the file, and in `earlier` the epochs before.

        Raises
        ------
        FileNotFoundError, ModelFileError
            There is no such file, or another; or the best epoch's is missing.
        ValueError
            It is of other options or data, or of as many epochs as are asked for.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"--resume: there is no {self.path}, which a training that did not end leaves")
        net, rule = resume(self.path, backend=backend)
        known = net.preprocessing
        if not isinstance(known, dict) or known.get("kind") != KIND:
            raise ModelFileError(f"--resume: {self.path} is no checkpoint of fastnn train")
        net.preprocessing = None
        for name, value in self._about["options"].items():
            if known["options"].get(name) != value:
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"--resume: {option} is {_shown(value)}, the training that {self.path} is of had "
                    f"{_shown(known['options'].get(name))}"
                )
        if known["data"] != self._about["data"]:
            raise ValueError(f"--resume: the data are not those that {self.path} was trained on")
        self.earlier = History(**known["history"])
        if len(self.earlier.cost) >= int(self._epochs or 0):
            raise ValueError(
                f"--resume: {len(self.earlier.cost)} epochs are done; give --epochs a larger number, got {self._epochs}"
            )
        if self.patience is None:
            self.earlier.best = None
        elif self.earlier.best is not None:
            self._cost = self.earlier.val_cost[self.earlier.best]
            self._theta = np.array(load(self._best(self.earlier.best), backend="numpy").theta)
        return net, rule

    def _best(self, epoch: int) -> Path:
        return Path(f"{self._base}{BEST}{epoch}{SUFFIX}")

    def _others(self, epoch: int | None) -> list[Path]:
        """Files of best epochs, but of this one."""
        folder, name = Path(self._base).parent, Path(self._base).name + BEST
        found = [path for path in folder.glob(f"*{SUFFIX}") if path.name.startswith(name)]
        return [path for path in found if epoch is None or path != self._best(epoch)]

    def _write(self, net: Network) -> None:
        self._written, best = time.monotonic(), self.history.best
        try:
            if best is not None and not self._best(best).exists():
                twin = copy.deepcopy(net)
                twin.theta[...] = twin.backend.asarray(self._theta)
                twin.save(self._best(best))
            net.preprocessing = {"kind": KIND, **self._about, "history": dataclasses.asdict(self.history)}
            try:
                net.save(self.path, optimizer=net.optimizer)
            finally:
                net.preprocessing = None
            for path in self._others(best):
                path.unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            self._say(f"warning: {self.path} cannot be written ({why}); a crash would cost the training")
        else:
            self._say(f"should this training not end, --resume goes on from {self.path}")

    def _say(self, text: str) -> None:
        """Once, whichever comes first."""
        if not self._said:
            remark(text)
        self._said = True


def joined(earlier: History, history: History) -> History:
    """The epochs of both; the best is that of the first, which counts over both."""
    lists = {
        field.name: [*getattr(earlier, field.name), *getattr(history, field.name)]
        for field in dataclasses.fields(History)
        if field.name not in FOR_PEOPLE
    }
    with_l2 = history.with_l2 or earlier.with_l2
    return History(**lists, interrupted=history.interrupted, best=earlier.best, with_l2=with_l2)


def _kept(options: TrainOptions) -> dict[str, Any]:
    """What must be the same when it goes on; how the rate goes over the epochs is up to their number."""
    found = {name: value for name, value in options.as_json().items() if name not in MAY_CHANGE}
    if options.decay != "none":
        found["epochs"] = options.epochs
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _fingerprint(parts: Parts) -> str:
    """Of the rows, in their order."""
    digest = hashlib.sha256()
    for part in (parts.train, parts.validation or ()):
        for array in part:
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
