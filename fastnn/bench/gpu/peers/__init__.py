"""Who is compared on a GPU: fastnn's two modes, PyTorch eager and compiled with CUDA graphs, JAX. Imported by
worker processes alone.
"""

from __future__ import annotations

from ...peers import Spec

__all__ = ["PEERS"]


def _module(name: str) -> str:
    return f"{__name__}.{name}"


# The captured program stands for fastnn; the eager one is shown beside it.
PEERS = {
    spec.name: spec
    for spec in (
        Spec(
            "captured",
            "fastnn",
            f"{_module('fastnn_peer')}:Captured",
            ("fastnn-backends",),
            "import fastnn",
            own=True,
            sweep=False,
        ),
        Spec(
            "eager",
            "fastnn (eager)",
            f"{_module('fastnn_peer')}:Eager",
            ("fastnn-backends",),
            "import fastnn",
            own=True,
            sweep=False,
        ),
        Spec("torch", "PyTorch", f"{_module('torch_peer')}:Eager", ("torch",), "import torch", sweep=False),
        Spec("compile", "torch.compile", f"{_module('torch_peer')}:Compiled", ("torch",), "import torch", sweep=False),
        Spec("jax", "JAX", f"{_module('jax_peer')}:Jax", ("jax", "jaxlib"), "import jax", sweep=False),
    )
}
