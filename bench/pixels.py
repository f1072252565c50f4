"""Whether PyTorch gains by data of bytes, converted batch by batch, over the same data as float32, which `fastnn bench`
gives it: interleaved, medians.

python bench/pixels.py    # where PyTorch is installed
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from fastnn.bench.cases import Case, training_cases
from fastnn.bench.environment import describe

ROWS, STEPS, ROUNDS = 60_000, 60, 9


def steps_of(case: Case, pixels: torch.Tensor, as_bytes: bool) -> Callable[[], float]:
    """A call that takes STEPS steps and tells the seconds of one."""
    generator = torch.Generator().manual_seed(0)
    y, order = (
        torch.randint(0, case.net.sizes[-1], (ROWS,), generator=generator),
        torch.randperm(ROWS, generator=generator),
    )
    data = pixels if as_bytes else pixels.float() * (1 / 255)
    layers = [
        layer
        for n_in, n_out in zip(case.net.sizes, case.net.sizes[1:], strict=False)
        for layer in (torch.nn.Linear(n_in, n_out), torch.nn.ReLU())
    ]
    model = torch.nn.Sequential(*layers[:-1])
    rule = torch.optim.SGD(model.parameters(), 1e-3, fused=True)
    steps = min(STEPS, ROWS // case.batch)

    def run() -> float:
        began = time.perf_counter()
        for rows in order.split(case.batch)[:steps]:
            x = data.index_select(0, rows)
            rule.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x.float().mul_(1 / 255) if as_bytes else x), y[rows]).backward()
            rule.step()
        return (time.perf_counter() - began) / steps

    return run


def main() -> None:
    """Prints a line for each cell of pixels."""
    environment = describe()
    print(
        f"{environment['cpu']}, {environment['cores']} cores, {environment['date']}, PyTorch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'case':28s} {'float32':>12s} {'bytes':>12s} {'ratio':>6s}")
    for case in training_cases("default"):
        if not case.net.pixels:
            continue
        pixels = torch.randint(0, 256, (ROWS, case.net.sizes[0]), dtype=torch.uint8)
        calls = [steps_of(case, pixels, as_bytes) for as_bytes in (False, True)]
        for call in calls:
            call()
        floats, octets = (
            statistics.median(column)
            for column in zip(*([call() for call in calls] for _ in range(ROUNDS)), strict=True)
        )
        print(
            f"{case.net.name}@{case.batch:<8d} {floats * 1e6:9,.0f} us {octets * 1e6:9,.0f} us {floats / octets:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
