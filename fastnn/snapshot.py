"""Copies that a fit can go back to, and the program and memory that one fit leaves for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .backends.base import Job, Program
    from .network import Network
    from .optimizers import Optimizer

__all__ = ["KEPT_BYTES", "Snapshot", "keep", "kept_or_made"]

KEPT_BYTES = 64 << 20


class Snapshot:
    """A copy of Theta, the optimizer's state, its step counter, its learning rate and the rate of its last step, to go
    back to.
    """

    def __init__(self, net: Network, optimizer: Optimizer) -> None:
        self.copyto, self.optimizer = net.backend.copyto, optimizer
        self.live = [net.theta, *optimizer.state]
        self.kept = [net.backend.empty(x.shape, x.dtype) for x in self.live]
        self.t, self.learning_rate, self.rate = optimizer.t, optimizer.learning_rate, optimizer.rate
        self.nbytes = sum(x.nbytes for x in self.kept)

    def is_of(self, net: Network, optimizer: Optimizer) -> bool:
        """Whether these are the arrays that it copies."""
        live = [net.theta, *optimizer.state]
        return len(live) == len(self.live) and all(a is b for a, b in zip(live, self.live, strict=True))

    def take(self) -> None:
        for kept, live in zip(self.kept, self.live, strict=True):
            self.copyto(kept, live)
        rule = self.optimizer
        self.t, self.learning_rate, self.rate = rule.t, rule.learning_rate, rule.rate

    def restore(self) -> None:
        for kept, live in zip(self.kept, self.live, strict=True):
            self.copyto(live, kept)
        self.optimizer.t = self.t
        if self.optimizer.learning_rate is not self.learning_rate:  # by a callback
            self.optimizer.learning_rate = self.learning_rate
        self.optimizer.took(self.rate)


def kept_or_made(job: Job) -> tuple[Program, Snapshot]:
    """The program and the snapshot for this job: those that the previous fit left with the network, if they serve,
    because making new ones takes longer than a step; else new ones.

    The network is left without either. `keep` gives them back after the fit, so a fit that fails leaves none behind.
    """
    net, rule = job.net, job.optimizer
    kept, net._kept_program = net._kept_program, None
    if kept is None or not kept[0].serves(job):
        kept = net.backend.program_for(job), None
    program, snapshot = kept
    program.net = net
    rule.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))  # its state may have been reset
    return program, snapshot if snapshot is not None and snapshot.is_of(net, rule) else Snapshot(net, rule)


def keep(net: Network, program: Program, snapshot: Snapshot) -> None:
    """Leave both with the network for a next fit with the same instance of an optimizer, if the engine's programs
    can serve again and it is at most 64 MiB.
    """
    if program.nbytes is not None and program.nbytes + snapshot.nbytes <= KEPT_BYTES:
        program.net = cast("Network", None)  # or the two would keep each other alive until garbage is collected
        program.weights = None  # of all rows
        net._kept_program = program, snapshot
