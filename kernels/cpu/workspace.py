"""What the compiled training programs are given, by name: the data, the rule and the run, and for the programs on
panels the shape of the network and memory.

Each is a named tuple, which compiled code takes apart at no cost. Arrays in them are C-contiguous; those of `Data` are
read-only (`read_only`), for compiled code takes a tuple of exactly the types that it was compiled for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from . import inner
from .codes import GRADIENT
from .panels import address, rows_at, vector_at

__all__ = [
    "Data",
    "Drawn",
    "Memory",
    "Own",
    "Rule",
    "Run",
    "Shape",
    "batch_of",
    "factors_of",
    "hyper_of",
    "kinds",
    "own",
    "read_only",
    "record",
    "uncounted",
]


class Data(NamedTuple):
    """Rows and targets.

    source (4,) int64, read, scale : where the rows of X lie and how they are read and scaled, see kernels/cpu/gather.py
    native : the rows of X are numbers of the network's dtype side by side, and are used where they lie
    classes (n,) int64 if by_class, else values (n, s_L)
    weights (n,), how much each row counts, or none (0,)
    """

    source: Any
    read: Any
    native: Any
    scale: Any
    classes: Any
    values: Any
    by_class: Any
    weights: Any


class Run(NamedTuple):
    """Steps start..stop over the row numbers `order` (int64), `batch` rows a step; the workspace holds `capacity`
    rows at a time, of each thread where it takes a slice of the batch. key: of the epoch's random numbers for dropout.
    """

    order: Any
    start: Any
    stop: Any
    batch: Any
    capacity: Any
    key: Any


class Drawn(NamedTuple):
    """Where in the random numbers for dropout rows take theirs: the key of the epoch, the step in it, and of the first
    row its number in the batch.
    """

    key: Any
    step: Any
    row: Any


class Rule(NamedTuple):
    """The optimizer: its code; hypers (1 or stop - start, any) float64, Optimizer.hyper() for all steps, or a row
    for each; t, steps taken before; l2, lambda / n; clip, the length to which a longer gradient is scaled, 0 for none
    (kernels/cpu/program.py alone).
    """

    code: Any
    hypers: Any
    t: Any
    l2: Any
    clip: Any


class Shape(NamedTuple):
    """The network, on panels.

    sizes (L,), widths (L - 1,) int64 : s_1 ... s_L; P_2 ... P_L, the sizes padded to whole vectors
    blocks, starts, turns (L,) int64 : where each layer's panel, rows of activations and transposed panel begin, in
        numbers (starts: times the rows); then the end
    codes, slopes (L - 1,) : activations and their parameters; pair : the code of the output with its cost
    limits (L - 1,) int64, kept, scales (L - 1,) : of dropout in layers 2..L, as kernels/cpu/dropout.py has them; 1 - p
        and 1 / (1 - p); 0, 1, 1 where there is none
    """

    sizes: Any
    widths: Any
    blocks: Any
    starts: Any
    turns: Any
    codes: Any
    slopes: Any
    pair: Any
    limits: Any
    kept: Any
    scales: Any


class Memory(NamedTuple):
    """Of all threads, of the network's dtype unless said; kernels/cpu/panel_program.py tells what it is for."""

    packed: Any
    grads: Any
    state1: Any
    state2: Any
    turned: Any
    x: Any
    a: Any
    d: Any
    beside: Any
    side: Any
    h: Any
    e: Any
    wanted: Any
    shares: Any
    labels: Any
    low: Any
    parts: Any
    places: Any
    firsts: Any
    ones: Any
    zeros: Any
    costs: Any
    hits: Any


class Own(NamedTuple):
    """Where what one thread works with lies: addresses, of which views are made where they are used. Those count no
    references, which costs an atomic operation each way, tens of times per step.

    theta, state1, state2, places, ones, nothing : packed, ..., zeros of `Memory`; state1 and state2 0 where the rule
        has none
    order, classes, values, weights : of the run and the data, which have so many `rows`; weights 0 where there are none
    turned, x, firsts, a, d, side, labels, wanted, shares, h, e : this thread's
    beside : bytes from an activation in a to g'(z) of it, where that is not known from a (kernels/cpu/on_demand.py)
    sums : two float64 beside its cost, on nobody else's cache line
    """

    theta: Any
    state1: Any
    state2: Any
    places: Any
    ones: Any
    nothing: Any
    order: Any
    classes: Any
    values: Any
    weights: Any
    rows: Any
    turned: Any
    x: Any
    firsts: Any
    a: Any
    d: Any
    beside: Any
    side: Any
    labels: Any
    wanted: Any
    shares: Any
    h: Any
    e: Any
    sums: Any


def uncounted(data, shape, rule):
    """The same, as views of addresses that count no references, of which the steps make use."""
    integer, layers = np.int64(0), shape.codes.size
    seen = Shape(
        sizes=vector_at(address(shape.sizes), integer, layers + 1),
        widths=vector_at(address(shape.widths), integer, layers),
        blocks=vector_at(address(shape.blocks), integer, layers + 1),
        starts=vector_at(address(shape.starts), integer, layers + 1),
        turns=vector_at(address(shape.turns), integer, layers + 1),
        codes=vector_at(address(shape.codes), integer, layers),
        slopes=vector_at(address(shape.slopes), data.scale, layers),
        pair=shape.pair,
        limits=vector_at(address(shape.limits), integer, layers),
        kept=vector_at(address(shape.kept), data.scale, layers),
        scales=vector_at(address(shape.scales), data.scale, layers),
    )
    hypers = rows_at(address(rule.hypers), np.float64(0), rule.hypers.shape[0], rule.hypers.shape[1])
    source = vector_at(address(data.source), integer, data.source.size)
    return (
        Data(source, data.read, data.native, data.scale, data.classes, data.values, data.by_class, data.weights),
        seen,
        Rule(rule.code, hypers, rule.t, rule.l2, rule.clip),
    )


uncounted = inner(uncounted)


def own(me, turned, upper, data, run, memory):
    """Thread `me`'s `Own`. The address `turned` is 0 unless it is asked for. Where the lower layers' rows lie elsewhere
    (kernels/cpu/split_program.py), a and d are moved back by the `upper` bytes these would take, so that offsets of the
    layers above are the same in all programs.
    """
    none = np.int64(0)
    state1 = address(memory.state1) if memory.state1.size else none
    state2 = address(memory.state2) if memory.state2.size else none
    own_turned = address(memory.turned[me]) if turned else none
    weights = address(data.weights) if data.weights.size else none
    return Own(
        theta=address(memory.packed),
        state1=state1,
        state2=state2,
        places=address(memory.places),
        ones=address(memory.ones),
        nothing=address(memory.zeros),
        order=address(run.order),
        classes=address(data.classes),
        values=address(data.values),
        weights=weights,
        rows=max(data.classes.size, data.values.shape[0]),
        turned=own_turned,
        x=address(memory.x[me]),
        firsts=address(memory.firsts[me]),
        a=address(memory.a[me]) - upper,
        d=address(memory.d[me]) - upper,
        beside=address(memory.beside[me]) - address(memory.a[me]),
        side=address(memory.side[me]),
        labels=address(memory.labels[me]),
        wanted=address(memory.wanted[me]),
        shares=address(memory.shares[me]),
        h=address(memory.h[me]),
        e=address(memory.e[me]),
        sums=address(memory.costs) + (16 * me + 1) * 8,
    )


own = inner(own)


def hyper_of(rule, step):
    """The rule's constants for the step of this number, counted from the run's first."""
    rows, count = rule.hypers.shape
    return vector_at(address(rule.hypers) + min(step, rows - 1) * count * 8, np.float64(0), count)


hyper_of = inner(hyper_of)


def batch_of(run, rows, step):
    """(first, m) of a step: where its rows begin in the order, which has so many, and how many they are."""
    first = step * run.batch
    return first, min(first + run.batch, rows) - first


batch_of = inner(batch_of)


def factors_of(direct, rule, hyper, m, zero):
    """(share, keep, biases_keep) for a step's first product of deltas and rows, which gives keep M + share sum x delta.

    direct: plain gradient descent whose batch is one tile and summed over no threads needs no gradient. The product
    itself moves the parameters: (1 - alpha lambda/n) M - (alpha/m) sum x delta, and b - (alpha/m) sum delta; or makes
    gradients of them, (lambda/n) M + (1/m) sum x delta, and (1/m) sum delta. Else it is Delta that is written, anew.
    """
    kind = type(zero)
    if direct and rule.code == GRADIENT:
        return kind(1 / m), kind(rule.l2), zero
    if direct:
        return kind(-hyper[0] / m), kind(1 - hyper[0] * rule.l2), kind(1)
    return kind(1), zero, zero


factors_of = inner(factors_of)


def read_only(x):
    """The array as one that cannot be written, which `Data` and `Run` hold."""
    view = np.asarray(x).view()
    view.flags.writeable = False
    return view


def record(made, **fields):
    """The Numba type of the named tuple `made`, from those of its fields."""
    assert set(fields) == set(made._fields), (made, set(fields) ^ set(made._fields))
    return types.BaseTuple.from_types([fields[name] for name in made._fields], made)


def kinds(name):
    """{class: its Numba type} in this dtype, of all but Own."""
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def array(kind, ndim, readonly=False):
        return types.Array(kind, ndim, "C", readonly=readonly)

    vector, table, indices, numbers = array(real, 1), array(real, 2), array(integer, 1), array(integer, 2)
    given, sums = array(integer, 1, True), array(double, 1)
    return {
        Data: record(
            Data, source=indices, read=integer, native=flag, scale=real, classes=given, values=array(real, 2, True),
            by_class=flag, weights=array(real, 1, True),
        ),
        Run: record(Run, order=given, start=integer, stop=integer, batch=integer, capacity=integer, key=integer),
        Rule: record(Rule, code=integer, hypers=array(double, 2), t=integer, l2=double, clip=double),
        Shape: record(
            Shape, sizes=indices, widths=indices, blocks=indices, starts=indices, turns=indices, codes=indices,
            slopes=vector, pair=integer, limits=indices, kept=vector, scales=vector,
        ),
        Memory: record(
            Memory, packed=vector, grads=table, state1=vector, state2=vector, turned=table, x=table, a=table, d=table,
            beside=table, side=table, h=table, e=table, wanted=table, shares=table, labels=numbers, low=table,
            parts=table, places=numbers, firsts=numbers, ones=vector, zeros=vector, costs=sums, hits=indices,
        ),
    }  # fmt: skip
