#!/usr/bin/env python3
"""Settles everything about fastnn on a GPU: `python bench/gpu.py`, under 8 minutes; --quick, --all, --help.

It needs no network and no installation. Where fastnn is not installed, it runs from this checkout: fastnn/ and kernels/
are copied into a temporary folder as they would be installed (kernels/ becomes fastnn/kernels), and that folder goes
onto the path of every process. Python >= 3.11 with NumPy, CuPy, rich, threadpoolctl and safetensors has to be there;
pytest, PyTorch, JAX, compute-sanitizer and Numba are used where they are, and reported where they are not.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
MOMENT = 20.0  # seconds in which a stage ends and results are written


def installed() -> bool:
    """Whether a complete fastnn is on the path already."""
    return importlib.util.find_spec("fastnn") is not None and importlib.util.find_spec("fastnn.kernels") is not None


def lay_out(folder: Path) -> None:
    """The packages of the checkout in this folder, as an installation would have them."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "fastnn", folder / "fastnn", ignore=ignore)
    shutil.copytree(CHECKOUT / "kernels", folder / "fastnn" / "kernels", ignore=ignore)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fastnn-") as folder:
        environment = dict(os.environ)
        if not installed():
            lay_out(Path(folder))
            environment["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
            print(f"gpu: fastnn is not installed here; {CHECKOUT} is used", file=sys.stderr)
        # -P: the folder we are in stays off the path, or the checkout, which has no fastnn/kernels, would come first.
        command = [sys.executable, "-P", "-m", "fastnn.bench.gpu", "--checkout", str(CHECKOUT), *sys.argv[1:]]
        return waited_for(command, environment)


def waited_for(command: list[str], environment: dict[str, str] | None) -> int:
    """The exit code of the command; asked to end, this process ends that first, with what it started."""
    process = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:  # of a terminal, which the command has received as well
        try:
            process.wait(timeout=MOMENT)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        return 130


if __name__ == "__main__":
    sys.exit(main())
