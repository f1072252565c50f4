"""The releases of `make oldest` are the lower bounds of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Extras for a GPU, MKL and other libraries are gigabytes or need a device; ruff and mypy do not run fastnn.
EXTRAS = ("cpu", "sklearn", "plot", "onnx", "test", "dev")
APART = {"fastnn-backends", "ruff", "mypy"}
OF_OTHERS = {"click", "pyparsing"}


def _versions(lines, operator):
    """name -> the version behind this operator, None where a requirement has none."""
    found = {}
    for requirement in map(Requirement, lines):
        versions = [Version(each.version) for each in requirement.specifier if each.operator == operator]
        found[requirement.name] = min(versions, default=None)
    return found


def test_the_oldest_releases_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = _versions(project["dependencies"] + [line for extra in EXTRAS for line in extras[extra]], ">=")
    lines = [line.partition("#")[0].strip() for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines()]
    pinned = _versions(filter(None, lines), "==")
    assert pinned.keys() - bounds.keys() == OF_OTHERS
    ours = bounds.keys() - APART
    assert {name: pinned.get(name) for name in ours} == {name: bounds[name] for name in ours}
