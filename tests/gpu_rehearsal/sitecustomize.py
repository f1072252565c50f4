"""Makes the processes of a rehearsal believe in a GPU; Python imports this when it starts, where the folder is on its
path.

`import cupy` gives the tests' fake CuPy, whose kernels run on the stand-in, so that the real device layer, the real
engine and every real stage run, in their real processes. What is measured is made small.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from types import SimpleNamespace

FAKED = ("cupy", "cupy.cuda")
_made = {}
sys.modules["nvmath"] = None  # whose cuBLASLt would be the real one


def make():
    """The fakes by the name of the module that they stand for."""
    import fake_cupy
    import numpy as np
    from cuda_on_cpu.cublaslt import SONAME, StandInLt, build

    class Log(list):
        """The fake keeps what it was asked in `log`, which in CuPy is a function."""

        def __call__(self, x):
            return np.log(x)

    class Rehearsed(fake_cupy.WorkingCupy):
        __version__ = "of the rehearsal"

        def __init__(self):
            super().__init__()
            self.log = Log()

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(np, name)

        def tile(self, x, count):
            return np.tile(x, count).view(fake_cupy.DeviceArray)

        def ones(self, count, dtype):
            return np.ones(count, dtype).view(fake_cupy.DeviceArray)

    cupy = Rehearsed()
    properties = {
        "name": b"Rehearsal",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 1,
        "l2CacheSize": 1024,
        "sharedMemPerBlockOptin": 64 << 10,
    }
    cupy.cuda.runtime.getDeviceProperties = lambda device: properties
    cupy.cuda.nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    cublas = cupy.cuda.cublas = fake_cupy.FakeCublas(cupy)
    cupy.lt = StandInLt(lambda: cupy.recording, build(SONAME))  # fastnn finds it by its name where it is loaded
    cublas.getVersion = lambda handle: 130000
    cublas.gemmEx = lambda *arguments: None  # what it computes is seen in test_bench_gpu_lab.py
    return {"cupy": cupy, "cupy.cuda": cupy.cuda}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name in FAKED else None

    def create_module(self, spec):
        if not _made:
            _made.update(make())
        return _made[spec.name]

    def exec_module(self, module):
        pass


def shrink():
    """The same stages on little data."""
    from fastnn.backends.cupy_device import CupyDevice
    from fastnn.bench.cases import Case, net_named
    from fastnn.bench.cell import Settings
    from fastnn.bench.gpu import cases, ceilings, determinism, epilogues, lab, peers, steps, timer
    from fastnn.bench.peers import Spec

    CupyDevice.workspace_bytes = 4096
    tiny = net_named("12-9-3")
    steps.training_cases = lambda mode: [Case(tiny, 16), Case(tiny, 16, "adam", "bf16")]
    steps.SETTINGS[os.environ["REHEARSED_MODE"]] = Settings(
        rows=64, seconds=0.005, rounds=3, timeout=100, oracle="cupy", compared=1
    )
    determinism.PROBLEMS, determinism.compare.__defaults__ = determinism.PROBLEMS[:1], (40,)
    ceilings.SQUARES, ceilings.COPY_BYTES = dict.fromkeys(("quick", "default", "all"), (8, 16)), (1 << 10,)
    ceilings.shapes.__globals__["layer_shapes"] = lambda net, batch: []
    epilogues.problems = lambda mode: [("12-9-3", 16, "fp32"), ("12-9-3", 16, "bf16")]
    lab.CupyLab.copy = lambda self, count: lambda: None
    timer.EventTimer.__init__ = lambda self, cupy: self.__dict__.update(
        _cupy=cupy, _flush=SimpleNamespace(fill=lambda value: None)
    )
    cases.judge.__globals__["target"] = lambda case: cases.GpuTarget(
        "tiny nets", None, {"compile": 1e-6, "torch": 1e-6}
    )
    for name, fake in (("torch", "Good"), ("compile", "Crashes"), ("jax", "Missing")):
        peers.PEERS[name] = Spec(name, name, f"fake_peers:{fake}", ("numpy",), "import json", sweep=False)


sys.meta_path.insert(0, Finder())
if "fastnn.bench" in " ".join(sys.orig_argv):
    shrink()
