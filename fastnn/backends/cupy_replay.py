"""Steps on one X and y: run launch by launch the first time, then recorded as CUDA graphs and repeated."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from .cupy_contract import CaptureRefused, Device, Graph
from .cupy_step import Step

__all__ = ["Capture", "Replay"]

# of the graph that is launched while there are so many steps to do; a launch costs a few microseconds
STEPS_PER_GRAPH = 16


class Capture:
    """Whether a program's steps are captured, and if not why: known to all its replays.

    Attributes
    ----------
    mode : str
        "captured", or "eager".
    why_eager : str
        The reason why nothing is captured.
    """

    def __init__(self) -> None:
        self.mode, self.why_eager = "captured", ""

    def refused(self, reason: str) -> None:
        """From now on steps run launch by launch, which is said."""
        self.mode, self.why_eager = "eager", reason
        warnings.warn(
            f"training steps are not captured as a CUDA graph, the same kernels are launched one by one: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )


class Replay:
    """Steps of any number of rows on the same data.

    Parameters
    ----------
    make : callable
        Number of rows -> Step.
    full : int
        Rows of the full batch; of other numbers only the last asked for is kept.
    """

    def __init__(self, device: Device, capture: Capture, make: Callable[[int], Step], full: int) -> None:
        self._device, self._capture, self._make, self._full = device, capture, make, full
        self._steps: dict[int, Step] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}

    def repeat(self, m: int, times: int) -> None:
        """`times` steps of m rows each; inside `Device.work`."""
        if m not in self._steps and times:
            self._steps[m] = self._make(m)
            self._steps[m]()  # loads the kernels, which a graph could not
            times -= 1
        while times:
            together = STEPS_PER_GRAPH if times >= STEPS_PER_GRAPH else 1
            graph = self._graph(m, together)
            if graph is None:
                self._steps[m]()
                times -= 1
            else:
                graph.launch()
                times -= together

    def forget_short(self) -> None:
        """Drop what is not of the full batch."""
        self._steps = {rows: step for rows, step in self._steps.items() if rows == self._full}
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] == self._full}

    def _graph(self, m: int, together: int) -> Graph | None:
        """`together` steps of m rows, recorded when first asked for; None where nothing is captured."""
        if self._capture.mode != "captured":
            return None
        if (m, together) not in self._graphs:
            step = self._steps[m]

            def several() -> None:
                for _ in range(together):
                    step()

            try:
                self._graphs[m, together] = self._device.capture(several)
            except CaptureRefused as refusal:
                self._capture.refused(str(refusal))
        return self._graphs.get((m, together))
