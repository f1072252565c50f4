"""Times what is over soon on the CPU engine: a fit of a single batch, planned apart from long epochs, one row that
helpers share, and validation after an epoch.

    python bench/short_runs.py
    python bench/short_runs.py --rounds 5

Rounds alternate between the two sides, medians of all calls are shown. A fit of one batch is planned for its rows,
beside the plan for long epochs (the engine's `panels` fixed to what that plan says), and beside the same with its
workspace made anew. Single rows follow one another without a pause: with helpers, and with threads=1. Parameters after
the same fits, and outputs, are compared; the largest difference is shown. Validation is what an epoch with 10,000 rows
to validate on takes longer than one without, beside the prediction of as many rows.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np

import fastnn
from fastnn.bench.environment import describe

FITS = [
    ((784, 16, 16, 10), 32),
    ((784, 30, 10), 128),
    ((784, 300, 100, 10), 8),
    ((784, 300, 100, 10), 128),
    ((784, 1024, 1024, 10), 128),
]
VALIDATED = [(784, 30, 10), (784, 100, 100, 10), (784, 300, 100, 10), (784, 1024, 1024, 10)]
ROWS = [
    (784, 300, 100, 10),
    (784, 500, 400, 10),
    (784, 700, 500, 10),
    (784, 1024, 10),
    (784, 1024, 1024, 10),
    (784, 2048, 2048, 10),
]


def network(sizes: tuple[int, ...], **options: object) -> fastnn.Network:
    return fastnn.Network(sizes, backend=fastnn.get_backend("numba", **options), seed=0)


def medians(sides: list[Callable[[], object]], rounds: int, calls: int) -> list[float]:
    """Microseconds of a call of each side; the first tenth of each round's calls warms up."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, kept in zip(sides, times, strict=True):
            for call in range(calls + calls // 10):
                began = time.perf_counter()
                side()
                if call >= calls // 10:
                    kept.append(time.perf_counter() - began)
    return [statistics.median(kept) * 1e6 for kept in times]


def fits(rounds: int, calls: int) -> None:
    print(
        f"\nfit of one batch, Adam\n{'':32}{'planned apart':>14}{'as long epochs':>16}{'ratio':>8}{'difference':>12}  "
        "plan"
    )
    for sizes, batch in FITS:
        rng = np.random.default_rng(0)
        X, y = rng.random((batch, sizes[0]), np.float32), rng.integers(0, sizes[-1], batch)
        apart = network(sizes)
        other = network(sizes, panels="in panels" in apart.plan(batch))
        rules = [fastnn.optimizers.Adam(1e-4) for _ in range(2)]
        sides = [
            functools.partial(net.fit, X, y, optimizer=rule, epochs=1, batch_size=batch)
            for net, rule in zip((apart, other), rules, strict=True)
        ]
        for side in sides:
            side()
        off = float(abs(apart.theta - other.theta).max())
        first, second = medians(sides, rounds, calls)
        name = f"{'-'.join(map(str, sizes))}, batch {batch}"
        print(
            f"{name:32}{first:11,.0f} us{second:13,.0f} us{second / first:8.2f}{off:12.1e}  "
            f"{apart.plan(batch, training_rows=batch)}"
        )


def kept(rounds: int, calls: int) -> None:
    """A stream: one fit after another with one instance of an optimizer, beside the same with the workspace made
    anew each time.
    """
    print(
        "\nthe same, one fit after "
        f"another\n{'':32}{'workspace kept':>15}{'made anew':>13}{'ratio':>8}{'difference':>12}"
    )
    for sizes, batch in FITS:
        rng = np.random.default_rng(0)
        X, y = rng.random((batch, sizes[0]), np.float32), rng.integers(0, sizes[-1], batch)
        nets, rules = [network(sizes), network(sizes)], [fastnn.optimizers.Adam(1e-4) for _ in range(2)]

        def fit(number: int, forget: bool, nets=nets, rules=rules, X=X, y=y, batch=batch) -> None:
            if forget:
                nets[number]._kept_program = None
            nets[number].fit(X, y, optimizer=rules[number], epochs=1, batch_size=batch)

        sides = [functools.partial(fit, 0, False), functools.partial(fit, 1, True)]
        for side in sides:
            side()
        first, second = medians(sides, rounds, calls)
        off = float(abs(nets[0].theta - nets[1].theta).max())
        print(
            f"{'-'.join(map(str, sizes)) + f', batch {batch}':32}{first:12,.0f} us{second:10,.0f} "
            f"us{second / first:8.2f}{off:12.1e}"
        )


def rows(rounds: int, calls: int) -> None:
    print(f"\none row after another\n{'':32}{'automatic':>14}{'one thread':>16}{'ratio':>8}{'difference':>12}")
    for sizes in ROWS:
        x = np.random.default_rng(0).random((1, sizes[0]), np.float32)
        shared, alone = network(sizes), network(sizes, threads=1)
        sides = [functools.partial(net.predict_proba, x) for net in (shared, alone)]
        off = float(max(abs(sides[0]() - sides[1]()).max() for _ in range(calls)))
        first, second = medians(sides, rounds, calls)
        print(f"{'-'.join(map(str, sizes)):32}{first:11,.1f} us{second:13,.1f} us{second / first:8.2f}{off:12.1e}")


def validation(rounds: int) -> None:
    rng = np.random.default_rng(0)
    pixels, y, epochs = rng.integers(0, 256, (20_000, 784)).astype(np.uint8), rng.integers(0, 10, 20_000), 3
    print(
        "\nvalidation on 10,000 rows after an epoch of "
        f"20,000\n{'':32}{'epoch alone':>14}{'validation':>13}{'prediction':>13}"
    )
    for sizes in VALIDATED:
        for kind, X in (("float32", pixels / np.float32(255)), ("uint8", pixels)):
            net, options = (
                network(sizes),
                {"epochs": epochs, "batch_size": 128, "scale": 1 / 255 if X is pixels else None},
            )

            def fit(rows: tuple[np.ndarray, np.ndarray] | None, net=net, options=options, X=X) -> None:
                net.fit(X, y, validation=rows, **options)

            sides = [
                functools.partial(fit, None),
                functools.partial(fit, (X[:10_000], y[:10_000])),
                functools.partial(net.predict_proba, X[:10_000]),
            ]
            for side in sides:
                side()
            alone, watched, predicted = (time / 1e3 for time in medians(sides, rounds, 3))
            print(
                f"{'-'.join(map(str, sizes)) + ', ' + kind:32}{alone / epochs:11.1f} "
                f"ms{(watched - alone) / epochs:10.2f} ms{predicted:10.2f} ms"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    machine = describe()
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}, {machine['date']}, fastnn "
        f"{machine['fastnn']}"
    )
    fits(arguments.rounds, 40)
    kept(arguments.rounds, 40)
    rows(arguments.rounds, 1000)
    validation(arguments.rounds)


if __name__ == "__main__":
    main()
