"""The shape of the library: equal signatures, imports in one direction, a light `import fastnn`, the public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn
import fastnn.kernels
from fastnn.backends.base import Backend, Program
from fastnn.kernels.cpu import codes

FASTNN, KERNELS = Path(fastnn.__file__).parent, Path(fastnn.kernels.__file__).parent

# ---- engines ----------------------------------------------------------------------------------------------------

OPERATIONS = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and name != "__init__"]
ABSTRACT = sorted(Backend.__abstractmethods__)


def parameters(function):
    """Names, kinds and defaults; annotations may name an engine's own array type."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", OPERATIONS)
def test_signatures_are_identical_on_all_engines(backend, name):
    assert parameters(getattr(type(backend), name)) == parameters(getattr(Backend, name))


def test_engines_write_the_underscored_operations_and_leave_the_public_ones_alone(backend):
    """Validation happens once, in the contract; nobody falls back to another engine's arithmetic."""
    public = [
        name
        for name in OPERATIONS
        if name not in ABSTRACT
        and not name.startswith("_")
        and name not in ("announcing", "check_targets", "flush_subnormals", "outputs", "warming_rows")
    ]
    for cls in type(backend).__mro__[:-1]:
        if cls is not Backend and issubclass(cls, Backend):
            assert [name for name in public if name in vars(cls)] == []
    assert not type(backend).__abstractmethods__
    operations = {
        "_dense_forward",
        "_activate",
        "_output_delta",
        "_cost_sum",
        "_propagate_delta",
        "_times_derivative",
        "_accumulate",
        "_update",
        "program_for",
    }
    others = [
        cls
        for engine in ("numpy_backend.NumpyBackend", "numba_backend.NumbaBackend", "cupy_backend.CupyBackend")
        if (cls := engine_class(engine))
    ]
    for name in operations:
        owner = next(cls for cls in type(backend).__mro__ if name in vars(cls))
        assert sum(issubclass(cls, owner) for cls in others) <= 1, f"{name} is shared between engines"


def engine_class(path):
    module, _, name = path.partition(".")
    try:
        return getattr(importlib.import_module(f"fastnn.backends.{module}"), name)
    except (ImportError, fastnn.BackendUnavailable):
        return None


def test_programs_have_one_signature(backend):
    program = type(backend.compile(fastnn.Network([2, 2], backend=backend), fastnn.optimizers.SGD(), 1))
    for name in ("run", "_run", "steps"):
        assert parameters(getattr(program, name)) == parameters(getattr(Program, name))
    assert "run" not in vars(program)


# ---- who imports whom ---------------------------------------------------------------------------------------------

# A module imports only modules of a lower rank. What is not listed is on top: nothing listed may import it.
RANK = {
    "errors": 0,
    "constant": 1,
    "files": 0,
    "fit_lock": 0,
    "twins": 0,
    "version": 0,
    "interrupts": 0,
    "arrays": 0,
    "kernels": 0,
    "layout": 1,
    "normal": 0,
    "dropout": 1,
    "activations": 1,
    "costs": 2,
    "robust": 3,
    "d2": 4,
    "schedules": 1,
    "fit_schedule": 2,
    "rule": 2,
    "optimizers": 3,
    "initializers": 2,
    "backends.program": 4,
    "backends.base": 5,
    "backends": 7,  # the registry names the engines in strings and imports the contract alone
    "checks": 8,
    "options": 9,
    "settable": 10,
    "row_weights": 9,
    "fit_method": 9,  # a part of the network
    "backpropagation": 10,  # and so is this
    "network": 11,
    "training_data": 12,
    "lost_device": 12,
    "snapshot": 12,
    "early_stopping": 13,
    "training": 14,
    "lbfgs": 15,
    "saved_optimizer": 4,
    "model_file": 12,
    "gradient_check": 12,
}
TOP = 100
# Inside a function, at the moment of use, and nowhere else: convenience methods of the network, the live progress bar.
UPWARD = {
    ("fit_method", "training"),
    ("network", "model_file"),
    ("network", "onnx_export"),
    ("training", "progress"),
    ("training", "lbfgs"),
}
TABLES = ("errors", "layout", "activations", "costs", "schedules", "optimizers", "initializers")


def modules():
    for folder, prefix in ((FASTNN, ""), (KERNELS, "kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = [*([prefix] if prefix else []), *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name, path):
    """(imported module, where) with where "top", "typing" (under TYPE_CHECKING) or "function"; fastnn's without its
    prefix.
    """
    package = ["fastnn", *name.split(".")] if name else ["fastnn"]
    if path.name != "__init__.py":
        package = package[:-1]

    def visit(node, where):
        for child in ast.iter_child_nodes(node):
            inner = where
            if isinstance(child, ast.expr):
                continue  # imports are statements, and most nodes are not
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = "function"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "typing"
            elif isinstance(child, ast.Import):
                yield from ((alias.name, where) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                base = [*base, *(child.module.split(".") if child.module else [])]
                for alias in child.names:
                    full = ".".join([*base, alias.name])
                    yield (full if full.removeprefix("fastnn.") in NAMES else ".".join(base)), where
            yield from visit(child, inner)

    yield from visit(ast.parse(path.read_text()), "top")


NAMES = {name for name, _ in modules()}
EDGES = [
    (name, target.removeprefix("fastnn").removeprefix(".") if target.split(".")[0] == "fastnn" else None, target, where)
    for name, path in modules()
    for target, where in imports(name, path)
]


def rank(module):
    """Kernels are one rank, and so are the modules of the engines beside the contract."""
    package, _, rest = module.partition(".")
    return RANK["kernels"] if package == "kernels" else RANK.get(module, 5 if package == "backends" and rest else TOP)


def test_every_ranked_module_exists():
    assert set(RANK) <= NAMES
    assert len(EDGES) > 50


def test_imports_go_one_way():
    """kernels nothing, tables NumPy, backends kernels and tables, network tables and the contract, training network."""
    wrong = [
        f"{name} -> {target} ({where})"
        for name, target, _, where in EDGES
        if target is not None and name != "" and rank(name) < TOP and where != "typing"
        if not (rank(name) == rank(target) and name.split(".")[0] == target.split(".")[0])  # see the test of cycles
        if rank(target) >= rank(name) and not (where == "function" and (name, target) in UPWARD)
    ]
    assert not wrong, "\n".join(wrong)


def test_kernels_import_nothing_of_fastnn():
    assert [
        edge
        for edge in EDGES
        if edge[0].startswith("kernels") and edge[1] is not None and not edge[1].startswith("kernels")
    ] == []


def test_tables_import_nothing_but_numpy():
    foreign = {
        (name, root)
        for name, target, full, where in EDGES
        if name in TABLES and target is None and where != "typing" and not standard(root := full.split(".")[0])
    }
    assert {root for _, root in foreign} == {"numpy"}


def test_no_engine_imports_another():
    """What they share is in the contract and in host.py, not in one of them."""
    engines = [("numpy_",), ("numba_", "cpu_"), ("cupy_", "cuda_")]
    for own in engines:
        for other in engines:
            if own is not other:
                mine = [
                    (name, target)
                    for name, target, _, _ in EDGES
                    if name.startswith(tuple(f"backends.{p}" for p in own)) and target
                ]
                assert [edge for edge in mine if edge[1].startswith(tuple(f"backends.{p}" for p in other))] == []


def test_the_network_never_imports_an_engine():
    engines = {name for name in NAMES if name.startswith("backends.") and name != "backends.base"}
    for importer in ("network", "training", "checks", "model_file", "gradient_check"):
        assert not {target for name, target, _, _ in EDGES if name == importer} & engines


def test_nothing_imports_the_command_line():
    assert [
        edge
        for edge in EDGES
        if edge[1] is not None and edge[1].split(".")[0] == "cli" and edge[0].split(".")[0] not in ("cli", "__main__")
    ] == []


def test_no_module_level_cycles():
    graph = {
        name: {t for n, t, _, where in EDGES if n == name and t and where == "top" and t != name} for name in NAMES
    }
    done, path = set(), []

    def walk(name):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        if name in done:
            return
        path.append(name)
        for target in graph.get(name, ()):
            if not name.startswith(f"{target}."):  # a package is loaded before its modules anyway
                walk(target)
        done.add(path.pop())

    for name in sorted(NAMES):
        walk(name)


def standard(root):
    return root in sys.stdlib_module_names


def test_optional_packages_are_imported_late_or_in_their_own_corner():
    corners = {
        "numba": ("kernels.cpu", "backends.numba_backend"),
        "scipy": ("kernels.cpu", "backends.numba_backend", "estimators"),
        "llvmlite": ("kernels.cpu",),
        "typer": ("cli",),
        "rich": ("cli", "progress"),
        "sklearn": ("estimators",),
    }
    wrong = [
        f"{name} -> {full}"
        for name, target, full, where in EDGES
        if target is None
        and where == "top"
        and not standard(root := full.split(".")[0])
        and root != "numpy"
        and not name.startswith(corners.get(root, ("-",)))
    ]
    assert not wrong, "\n".join(wrong)


HEAVY = {
    "scipy", "numba", "llvmlite", "cupy", "typer", "rich", "safetensors", "sklearn", "matplotlib", "threadpoolctl",
    "pandas", "torch",
}  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import fastnn",
        (
            "import fastnn; dir(fastnn); fastnn.Network([3, 4, 2], backend='numpy').fit([[0.0, 1, 2]] * 4, [0, 1, 0, "
            "1], epochs=1)"
        ),
    ],
    ids=["import", "NumPy training"],
)
def test_import_fastnn_imports_numpy_and_nothing_heavier(code):
    script = f"{code}\nimport sys; print('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    loaded = set(output.split())
    assert {"fastnn", "numpy"} <= loaded | {"numpy"}
    assert loaded & HEAVY == set()


# ---- public names -------------------------------------------------------------------------------------------------

PUBLIC = [
    "Network",
    "load",
    "gradcheck",
    "get_backend",
    "available_backends",
    "optimizers",
    "schedules",
    "activations",
    "costs",
    "initializers",
    "__version__",
]
ERRORS = [
    "BackendUnavailable",
    "DeviceLost",
    "Diverged",
    "ModelFileError",
    "DataFileError",
    "Activation",
    "History",
    "SymmetricStart",
    "TrainingInterrupted",
    "UnscaledInput",
]


@pytest.mark.parametrize("name", PUBLIC + ERRORS)
def test_public_names(name):
    assert hasattr(fastnn, name)
    assert name in dir(fastnn)
    assert name in fastnn.__all__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="netwrok"):
        fastnn.netwrok


REQUIRED = inspect.Parameter.empty
SIGNATURES = {
    "Network": {
        "sizes": REQUIRED,
        "hidden": "relu",
        "output": "softmax",
        "cost": "cross_entropy",
        "init": "auto",
        "l2": 0.0,
        "backend": "auto",
        "dtype": "float32",
        "precision": "fp32",
        "seed": 0,
    },
    "Network.fit": {
        "X": REQUIRED,
        "y": REQUIRED,
        "optimizer": "adam",
        "learning_rate": None,  # the rule's own
        "batch_size": None,
        "epochs": 20,
        "shuffle": True,
        "order": None,
        "validation": None,
        "callbacks": (),
        "progress": False,
        "seed": 0,
        "scale": None,
        "micro_batch": None,
    },
    "Network.cost_and_gradient": {"X": REQUIRED, "y": REQUIRED},
    "Network.score": {"X": REQUIRED, "y": REQUIRED},
    "Network.predict": {"X": REQUIRED},
    "Network.predict_proba": {"X": REQUIRED},
    "Network.forward": {"X": REQUIRED},
    "Network.split": {"vector": REQUIRED},
    "Network.save": {"path": REQUIRED},
    "load": {"path": REQUIRED, "backend": "auto"},
    "gradcheck": {"net": REQUIRED, "X": REQUIRED, "y": REQUIRED},
    "optimizers.SGD": {"learning_rate": 0.1},
    "optimizers.Momentum": {"learning_rate": 0.05, "momentum": 0.9},
    "optimizers.Adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "backends.Backend.dense_forward": {"a": REQUIRED, "W": REQUIRED, "b": REQUIRED, "out": None},
    "backends.Backend.activate": {"activation": REQUIRED, "z": REQUIRED, "out": None},
    "backends.Backend.output_delta": {
        "output": REQUIRED,
        "cost": REQUIRED,
        "z": REQUIRED,
        "a": REQUIRED,
        "y": REQUIRED,
        "out": None,
    },
    "backends.Backend.cost_sum": {"output": REQUIRED, "cost": REQUIRED, "z": REQUIRED, "a": REQUIRED, "y": REQUIRED},
    "backends.Backend.propagate_delta": {
        "delta": REQUIRED,
        "W": REQUIRED,
        "activation": REQUIRED,
        "z": REQUIRED,
        "a": REQUIRED,
        "out": None,
    },
    "backends.Backend.accumulate": {"Delta_W": REQUIRED, "Delta_b": REQUIRED, "delta": REQUIRED, "a": REQUIRED},
    "optimizers.LARS": {"learning_rate": 1.0, "momentum": 0.9, "trust": 0.001, "weight_decay": 0.0},
    "optimizers.LAMB": {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.0},
    "schedules.Constant": {"learning_rate": REQUIRED},
    "schedules.WarmUp": {"then": REQUIRED, "epochs": 5.0, "start": None},
    "schedules.Cosine": {"learning_rate": REQUIRED, "epochs": None, "final": 0.0},
    "schedules.Polynomial": {"learning_rate": REQUIRED, "epochs": None, "power": 2.0, "final": 0.0},
    "schedules.Step": {"learning_rate": REQUIRED, "every": REQUIRED, "factor": 0.1},
    "schedules.Piecewise": {"boundaries": REQUIRED, "learning_rates": REQUIRED},
    "schedules.scaled": {
        "learning_rate": REQUIRED,
        "batch_size": REQUIRED,
        "base_batch": REQUIRED,
        "warmup_epochs": 5.0,
    },
    "backends.Backend.compile": {"net": REQUIRED, "optimizer": REQUIRED, "batch_size": REQUIRED, "micro_batch": None},
    "backends.base.Program.run": {
        "X": REQUIRED,
        "y": REQUIRED,
        "order": REQUIRED,
        "start": REQUIRED,
        "stop": REQUIRED,
        "rates": None,
    },
}


@pytest.mark.parametrize("path", SIGNATURES)
def test_public_signatures_begin_as_designed(path):
    """In this order with these defaults; an optional argument may follow."""
    target = fastnn
    for part in path.split("."):
        target = getattr(target, part)
    got = {name: p.default for name, p in inspect.signature(target).parameters.items() if name != "self"}
    expected = SIGNATURES[path]
    assert list(got.items())[: len(expected)] == list(expected.items())
    assert all(default is not REQUIRED for name, default in got.items() if name not in expected)


def test_available_backends_says_why_not():
    table = fastnn.available_backends()
    assert list(table) == ["numpy", "numba", "cupy"]
    assert table["numpy"] is None
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in table.values())
    for name, reason in table.items():
        if reason is None:
            assert fastnn.get_backend(name) is fastnn.get_backend(name)
        else:
            with pytest.raises(fastnn.BackendUnavailable, match="pip install"):
                fastnn.get_backend(name)


def test_files_stay_readable():
    """At most 500 lines of at most 120 columns (ruff sees to the columns)."""
    here = Path(__file__).parent
    files = [*FASTNN.rglob("*.py"), *KERNELS.rglob("*.py"), *KERNELS.rglob("*.cu*"), *here.rglob("*.py")]
    assert {str(path): lines for path in files if (lines := len(path.read_text().splitlines())) > 500} == {}


def test_compiled_code_and_the_tables_agree_on_their_numbers():
    for table in (fastnn.activations.ACTIVATIONS, fastnn.optimizers.OPTIMIZERS):
        for name, entry in table.items():
            assert getattr(codes, name.upper()) == entry.code
    for name in ("SOFTMAX_CROSS_ENTROPY", "SIGMOID_CROSS_ENTROPY", "SQUARED_ERROR", "SOFTMAX_SQUARED_ERROR"):
        assert getattr(codes, name) == getattr(fastnn.costs, name).code


def test_public_names_are_written_out():
    """Type checkers read the list; what it names is what there is."""
    assert sorted(fastnn.__all__) == sorted({"__version__", *fastnn._PUBLIC} - {"estimators"})
