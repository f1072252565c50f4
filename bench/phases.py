"""Where the time of a training step on the matrix unit goes: each phase of a thread's part of the batch alone, beside
what its products of tiles take at their own speed.

    python bench/phases.py      # 784-100-100-10 at 512 rows, which misses its target; a minute; run nothing else
    python bench/phases.py 784-300-100-10@512 --rounds 5

All threads of the plan do the same phase at once, each on its own slice and memory, again and again, with the program's
own kernels and workspace. The first layer's way forward is timed with shuffled rows out of the whole data, as in
training, and with the same rows each time, which stay near. `products` is the number of products of tiles (16 x 32 by
32 x 16) times the time of one, timed alone with real numbers, factors near: no arrangement of this arithmetic takes
less. What the phases do not explain of the whole step is meeting the other threads, and caches that one phase leaves to
the next.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import numba
import numpy as np

import fastnn
from fastnn.backends.cpu_crew import run_team
from fastnn.backends.cpu_program import Steps
from fastnn.backends.numba_amx import AmxProgram
from fastnn.backends.numba_panels import needed_parts
from fastnn.bench.environment import describe
from fastnn.kernels.cpu.amx import (
    INPUTS,
    PIECE,
    REGISTERS,
    ROOM,
    SIDE,
    configure,
    forward,
    groups_of,
    missing,
    release,
    steps_of,
)
from fastnn.kernels.cpu.amx_code import block_of_sums
from fastnn.kernels.cpu.amx_layout import NUMBERS
from fastnn.kernels.cpu.amx_parts import (
    AHEAD,
    ONE,
    ROOM_AHEAD,
    Factors,
    few_at,
    gradient,
    lay_out,
    padded_biases,
    step_at,
)
from fastnn.kernels.cpu.amx_thin import FEW
from fastnn.kernels.cpu.on_demand import amx_table
from fastnn.kernels.cpu.panel_output import cost_and_delta
from fastnn.kernels.cpu.panels import RECTIFY, address, rows_at, vector_at
from fastnn.kernels.cpu.workspace import own

LAY_OUT, FORWARD, OUTPUTS, BACK, GRADIENT = range(5)
NAMES = ("lay out weights", "forward", "outputs, cost, deltas", "deltas of the layer below", "gradient")
ROWS = 32_768  # of data: at 784 inputs more than the caches hold
SECONDS = 0.05  # of each timing


@numba.njit(nogil=True)
def _phase(which, layer, me, table, data, run, shape, memory, apart, repetitions):
    """A phase of thread `me` on the run's rows from its slice on, those of the next repetition `apart` rows further."""
    zero, none, block, m = memory.packed.dtype.type(0), np.int64(0), run.capacity + SIDE, run.capacity
    mine = own(me, False, none, data, run, memory)
    each = memory.weights.shape[0] > 1
    factors = Factors(
        address(memory.weights[me if each else 0]),
        vector_at(address(memory.layers), none, shape.codes.size + 1),
        address(memory.right[me]),
        address(memory.rooms[me]),
        address(memory.rows[me]),
        address(memory.turned[me]),
        address(memory.errands[me]),
    )
    first, few, last = vector_at(mine.firsts, none, memory.firsts.shape[1]), few_at(shape, layer), shape.codes.size - 1
    a, d, n_in, n_out = mine.a, mine.d, shape.sizes[layer], shape.sizes[layer + 1]
    z, delta, step = a + block * shape.starts[layer] * 4, d + block * shape.starts[layer] * 4, step_at(shape, layer)
    inputs, where = (
        (data.source[0], mine.firsts)
        if layer == 0
        else (a + block * shape.starts[layer - 1] * 4, mine.places + layer * 8 * block)
    )
    ahead = np.int64(AHEAD if layer == 0 else 0)
    forth = factors.weights + factors.begin[layer] * PIECE
    configure(address(memory.registers))
    for repetition in range(repetitions):
        begin = (me * m + repetition * apart) % (run.order.size - m - ROOM_AHEAD)
        rows = run.order[begin : begin + m]
        for i in range(m + ROOM_AHEAD):
            first[i] = run.order[begin + i] * n_in if layer == 0 else none
        if which == LAY_OUT:
            lay_out(table, zero, layer, none, n_out, few, shape, mine, factors)
        elif which == FORWARD:
            padded_biases(zero, mine.theta, shape, layer, factors.rows)
            gate = np.int64(RECTIFY if layer < last else 0)
            forward(
                table, inputs, where, m, n_in, mine.side, forth, shape.widths[layer], factors.rows, ONE, z, step * 4,
                gate, ahead, factors.errand,
            )  # fmt: skip
        elif which == OUTPUTS:
            cost_and_delta(
                table, rows, data.by_class, shape, mine, rows_at(z, zero, m, step), rows_at(delta, zero, m, step)
            )
        elif which == BACK:
            back, below = forth + groups_of(n_out) * steps_of(n_in) * PIECE, shape.starts[layer - 1]
            deltas = mine.places + (layer + 1) * 8 * block
            forward(
                table, delta, deltas, m, n_out, mine.side, back, shape.widths[layer - 1], mine.nothing, ONE,
                d + block * below * 4, step_at(shape, layer - 1) * 4, inputs, none, factors.errand,
            )  # fmt: skip
        else:
            grads, deltas = address(memory.grads[me]), mine.places + (layer + 1) * 8 * block
            gradient(
                table, zero, layer, few, inputs, where, False, data.scale, m, delta, deltas, shape, factors, grads, ONE,
                zero, zero, ahead,
            )  # fmt: skip
    release()


@numba.njit(nogil=True)
def _tiles(registers, left, right, out, repetitions):
    """Blocks of two by two sums over 25 pieces of laid out factors: 600 products of tiles each."""
    steps, none = np.int64(25), np.int64(0)
    errand = np.zeros(16, np.int64)
    configure(address(registers))
    for _ in range(repetitions):
        block_of_sums(
            NUMBERS, np.int64(2), np.int64(2), address(left), steps * PIECE, address(right), steps * PIECE, steps,
            np.int64(1), address(out), np.int64(128), np.int64(128 * SIDE), address(errand), none,
        )  # fmt: skip
    release()


def seconds_of(team: int, work: Any, rounds: int) -> float:
    """Median seconds of one repetition of work(member, repetitions), done by all members at once."""

    def timed(repetitions: int) -> float:
        spent = [0.0] * team

        def member(me: int) -> None:
            began = time.perf_counter()
            work(me, repetitions)
            spent[me] = time.perf_counter() - began

        run_team(member, team)
        return max(spent) / repetitions

    timed(1)
    repetitions = max(1, int(SECONDS / timed(3)))
    return statistics.median(timed(repetitions) for _ in range(rounds))


def product_of_tiles(team: int, rounds: int) -> float:
    """Seconds of one, all threads at work."""
    numbers = np.random.default_rng(0).standard_normal((team, 2, 2 * 25 * PIECE // 2)).astype(np.float32)
    factors = (numbers.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16
    out = np.zeros((team, ROOM // 4), np.float32)
    return (
        seconds_of(
            team,
            lambda me, repetitions: _tiles(REGISTERS, factors[me, 0], factors[me, 1], out[me], repetitions),
            rounds,
        )
        / 600
    )


def tiles_of(which: int, n_in: int, n_out: int, m: int) -> int:
    """Products of tiles in a phase."""
    groups, pieces = (lambda n: -(-n // SIDE)), (lambda n: -(-n // INPUTS))
    if which == FORWARD:
        return 6 * groups(m) * groups(n_out) * pieces(n_in)
    if which == BACK:
        return 6 * groups(m) * groups(n_in) * pieces(n_out)
    return 6 * groups(n_out) * groups(n_in) * pieces(m) if which == GRADIENT else 0


def profile(case: str, rounds: int) -> None:
    """The table of a case."""
    name, _, batch = case.partition("@")
    sizes, B = [int(n) for n in name.split("-")], int(batch)
    rng = np.random.default_rng(0)
    X, y = rng.random((ROWS, sizes[0]), np.float32), rng.integers(0, sizes[-1], ROWS)
    order = rng.permutation(ROWS)
    engine = fastnn.get_backend("numba", amx=True)
    net = fastnn.Network(sizes, seed=0, dtype="float32", backend=engine)
    program = engine.compile(net, fastnn.optimizers.SGD(1e-6), B, training_rows=ROWS)
    if min(sizes[0], sizes[-1]) <= FEW:
        raise SystemExit(f"{case} has a layer that vectors multiply, which is not looked at here")
    if not isinstance(program, AmxProgram):
        raise SystemExit(f"{case} is not trained on the matrix unit: {net.plan(B)}")
    team, steps = program.plan.threads, ROWS // B

    def step(me: int, repetitions: int) -> None:
        for _ in range(repetitions):
            program.run(X, y, order, 0, steps)

    whole = seconds_of(1, step, rounds) / steps
    data, run = program._arguments(Steps(X, y, order, 0, steps), native=True)
    m = -(-B // team)
    run, memory = (
        run._replace(capacity=m),
        program._memory._replace(packed=net.theta, state1=np.empty(0, np.float32), state2=np.empty(0, np.float32)),
    )
    table, tile = amx_table(needed_parts(net, data.by_class, B), False, False), product_of_tiles(team, rounds)
    print(
        f"\n{case}: {whole * 1e6:,.0f} us a step; {team} threads, {m} rows each, in tiles of {program._capacity()}; "
        f"{tile * 1e9:.1f} ns a product of tiles"
    )
    print(f"{'phase':34}{'us':>9}{'rows near':>11}{'products':>10}{'at their speed':>16}")
    each = program._memory.weights.shape[0] > 1  # lays out all weights for itself
    last, totals = len(sizes) - 2, np.zeros(3)
    phases = [
        *((LAY_OUT, layer) for layer in range(last + 1)),
        *((FORWARD, layer) for layer in range(last + 1)),
        (OUTPUTS, last),
    ]
    for layer in range(last, -1, -1):
        phases += [*([(BACK, layer)] if layer else []), (GRADIENT, layer)]
    for which, layer in phases:

        def work(me: int, repetitions: int, apart: int = 0, which: int = which, layer: int = layer) -> None:
            _phase(which, layer, me, table, data, run, program._shape, memory, apart, repetitions)

        spent = near = seconds_of(team, work, rounds) / (1 if each or which != LAY_OUT else team)
        if shuffled := (which, layer) == (FORWARD, 0):
            spent = seconds_of(team, functools.partial(work, apart=B), rounds)
        n_in, n_out = sizes[layer : layer + 2]
        products = tiles_of(which, n_in, n_out, m)
        totals += spent, products, products * tile
        print(
            f"{f'{NAMES[which]}, {n_in}-{n_out}':34}{spent * 1e6:9.1f}{f'{near * 1e6:11.1f}' if shuffled else '':11}"
            f"{products:10,}{products * tile * 1e6:13.1f} us"
        )
    print(f"{'all':34}{totals[0] * 1e6:9.1f}{'':11}{totals[1]:10,.0f}{totals[2] * 1e6:13.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["784-100-100-10@512"], help="NET@BATCH")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"there is no matrix unit: {reason}")
    about = describe()
    print(
        f"fastnn {fastnn.__version__} on {about['cpu']}, {about['cores']} cores; load {about['load']}; {about['date']}"
    )
    for case in options.cases:
        profile(case, options.rounds)


if __name__ == "__main__":
    main()
