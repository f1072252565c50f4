"""What `fastnn train` keeps beside its model while it trains: after a crash, --resume goes on from there."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
import time
import uuid
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

__all__ = ["KIND", "Checkpoint"]

KIND, BEST, VERSION = "checkpoint", ".checkpoint-best-", 1
# options that may be others when a training goes on; which data they name is told by the data themselves
MAY_CHANGE = ("epochs", "patience", "backend", "checkpoint", "resume", "source", "data", "test",
              "no_header", "encoding", "separator")  # fmt: skip
OTHERS = ("interrupted", "best", "with_l2", "monitored")
GIVEN_LATER = {field.name: field.default for field in dataclasses.fields(TrainOptions) if field.name != "source"}
LISTS = tuple(field.name for field in dataclasses.fields(History) if field.name not in OTHERS)


class Checkpoint:
    """A callback that writes the network, its optimizer and the history to MODEL.checkpoint.safetensors after an epoch,
    if `every` seconds have passed since it last did, and ends training after `patience` epochs that were no better.

    The best epoch's network is in a file of its own, which the other names by a number drawn for this training and the
    epoch, so that a crash between the two, or another training of that name, leaves pairs that belong together.
    """

    def __init__(self, model: Path, options: TrainOptions, parts: Parts) -> None:
        self._base = str(model).removesuffix(SUFFIX)
        self.path = Path(self._base + f".{KIND}{SUFFIX}")
        self.every, self.patience, self._epochs = float(options.checkpoint), options.patience, int(options.epochs or 0)
        self._about: dict[str, Any] = {"options": _kept(options), "data": _fingerprint(parts)}
        self._run, self._mine, self._said = uuid.uuid4().hex[:12], False, False
        self._written = time.monotonic()
        self._monitor = options.monitor or "val_cost"
        self._highest, self._theta = float("-inf"), np.zeros(0)
        self.earlier, self.history = History(), History()

    def __call__(self, epoch: int, history: History, net: Network) -> bool:
        """After an epoch; True ends the training."""
        self.history = whole = joined(self.earlier, history)
        last, over = len(whole.cost) - 1, False
        if self.patience is not None:
            if (value := self._value(whole, last)) > self._highest:
                self._highest, self.earlier.best = value, last
                self._theta = np.array(net.backend.to_numpy(net.theta))
            whole.best = self.earlier.best
            over = last - (-1 if whole.best is None else whole.best) >= self.patience
        if not over and time.monotonic() - self._written >= self.every:
            self._write(net)
        return over

    def _value(self, history: History, epoch: int) -> float:
        """Of an epoch; the higher, the better."""
        return history.val_accuracy[epoch] if self._monitor == "val_accuracy" else -history.val_cost[epoch]

    def ended(self, net: Network, history: History) -> History:
        """The whole history of a training that has ended, however; the network goes back to its best epoch."""
        whole = joined(self.earlier, history)
        if self.back_to_best(net) and history.interrupted:
            remark("with --patience the model is that of the best epoch")
        return whole

    def back_to_best(self, net: Network) -> bool:
        """Whether there is a best epoch."""
        if self.earlier.best is None:
            return False
        net.theta[...] = net.backend.asarray(self._theta)
        return True

    def remark_on_another(self) -> None:
        """Of a training that begins where another's checkpoint lies."""
        if self.path.is_file():
            remark(
                f"{self.path} is there, of a training that did not end, which --resume would continue; this is another"
            )

    def remove(self) -> None:
        """Of a training that is complete nothing is left but its model."""
        for path in [*([self.path] if self._mine else []), *self._bests()]:
            with contextlib.suppress(OSError):  # it is in nobody's way
                path.unlink()

    def read(self, backend: str) -> tuple[Network, Optimizer]:
        """The network and the optimizer of the file, and in `earlier` the epochs before.

        Raises
        ------
        FileNotFoundError, ModelFileError
            There is no such file, or another; or the best epoch's is missing.
        ValueError
            It is of other options or data, or of more epochs than are asked for.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"--resume: no checkpoint {self.path} was found; there is nothing to resume")
        net, rule = resume(self.path, backend=backend)
        known, net.preprocessing = net.preprocessing, None
        if not isinstance(known, dict) or known.get("kind") != KIND or known.get("version") != VERSION:
            raise ModelFileError(f"--resume: {self.path} is no checkpoint of this version of fastnn train")
        try:
            options, data, self._run = dict(known["options"]), str(known["data"]), str(known["run"])
            self.earlier = _history(known["history"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"--resume: {self.path} is damaged: {error!r}") from None
        self._check(options, data)
        if self.patience is None:
            self.earlier.best = None
        elif self.earlier.best is not None:
            best = load(self._best(self.earlier.best), backend="numpy")
            if self._monitor == "val_accuracy" and not self.earlier.val_accuracy:
                raise ModelFileError(f"--resume: {self.path} is damaged: it has no validation accuracies")
            self._highest, self._theta = self._value(self.earlier, self.earlier.best), np.array(best.theta)
            if self._theta.shape != net.theta.shape:
                raise ModelFileError(f"--resume: {self._best(self.earlier.best)} is of another network")
        self._mine = True
        return net, rule

    def _check(self, options: dict[str, Any], data: str) -> None:
        """ValueError where this training is another than that of the file."""
        for name, value in self._about["options"].items():
            if options.get(name, GIVEN_LATER.get(name)) != value:  # a file of an older version has fewer
                raise ValueError(
                    f"--resume: --{name.replace('_', '-')} is {_shown(value)}, the training that {self.path} is of had "
                    f"{_shown(options.get(name))}"
                )
        if data != self._about["data"]:
            raise ValueError(f"--resume: the data are not those that {self.path} was trained on")
        if len(self.earlier.cost) > self._epochs:
            raise ValueError(
                f"--resume: {len(self.earlier.cost)} epochs are done; --epochs must be no fewer, got {self._epochs}"
            )

    def _best(self, epoch: int) -> Path:
        return Path(f"{self._base}{BEST}{self._run}-{epoch}{SUFFIX}")

    def _bests(self) -> list[Path]:
        """This training's files of best epochs."""
        folder, name = Path(self._base).parent, f"{Path(self._base).name}{BEST}{self._run}-"
        return [path for path in folder.glob(f"*{SUFFIX}") if path.name.startswith(name)]

    def _write(self, net: Network) -> None:
        """Whatever hinders it costs no training."""
        self._written, best = time.monotonic(), self.history.best
        try:
            if best is not None and not self._best(best).exists():
                twin = copy.deepcopy(net)
                twin.theta[...] = twin.backend.asarray(self._theta)
                twin.save(self._best(best))
            content = {"kind": KIND, "version": VERSION, "run": self._run, **self._about}
            net.preprocessing = {**content, "history": _plain(self.history)}
            try:
                net.save(self.path, optimizer=net.optimizer)
            finally:
                net.preprocessing = None
            self._mine = True
            for path in self._bests():
                if best is None or path != self._best(best):
                    path.unlink(missing_ok=True)
        except Exception as error:
            why = getattr(error, "strerror", None) or error
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
    lists = {name: [*getattr(earlier, name), *getattr(history, name)] for name in LISTS}
    with_l2 = history.with_l2 or earlier.with_l2
    return History(**lists, interrupted=history.interrupted, best=earlier.best, with_l2=with_l2)


def _plain(history: History) -> dict[str, Any]:
    """For JSON, which has no NaN and no infinity: None instead."""
    lists = {name: [v if math.isfinite(v) else None for v in getattr(history, name)] for name in LISTS}
    return {**lists, "best": history.best, "with_l2": history.with_l2}


def _history(plain: dict[str, Any]) -> History:
    """ValueError or TypeError where it is none."""
    lists: dict[str, Any] = {name: [math.nan if v is None else float(v) for v in plain[name]] for name in LISTS}
    best, epochs = plain["best"], len(lists["cost"])
    if any(len(values) not in (0, epochs) for values in lists.values()):
        raise ValueError("its lists have different lengths")
    if best is not None and not 0 <= int(best) < len(lists["val_cost"]):
        raise ValueError(f"its best epoch is {best}")
    return History(**lists, best=best, with_l2=bool(plain["with_l2"]))


def _kept(options: TrainOptions) -> dict[str, Any]:
    """What must be the same when it goes on; how the rate goes over the epochs is up to their number."""
    found = {name: value for name, value in options.as_json().items() if name not in MAY_CHANGE}
    if options.decay != "none":
        found["epochs"] = options.epochs
    if options.patience is not None:  # the best epoch is kept from the first on
        found["patience"] = "given"
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _fingerprint(parts: Parts) -> str:
    """Of the rows, in their order."""
    digest = hashlib.sha256()
    for part in (parts.train, parts.validation or (), parts.test):
        for array in part:
            digest.update(f"{array.shape} {array.dtype}".encode())
            if array.size:  # a view of nothing cannot be cast
                digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
