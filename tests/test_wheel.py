"""The wheel: it holds what the tree holds, and what it installs works away from the tree.

A subpackage or a .cu file that is missing from pyproject's lists works in editable mode and is
absent from the wheel; so the wheel is built, compared, installed apart, and used.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment of a process that sees the installed wheel before anything else."""
    site = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True, timeout=300)
    return site, {**os.environ, "PYTHONPATH": str(site)}


def _run(installed, tmp_path, *command, expect=0):
    result = subprocess.run(
        [sys.executable, *command],
        env=installed[1],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def test_the_wheel_holds_every_file_of_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    kinds = {".py", ".cu", ".cuh", ".typed"}
    tree = {str(path.relative_to(ROOT)) for path in (ROOT / "fastnn").rglob("*") if path.suffix in kinds}
    tree |= {
        str("fastnn/kernels" / path.relative_to(ROOT / "kernels"))
        for path in (ROOT / "kernels").rglob("*")
        if path.suffix in kinds
    }
    tree |= {"fastnn/py.typed"}
    assert shipped == tree


def test_the_source_distribution_holds_what_builds_tests_and_explains(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        shipped = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    kinds = {".py", ".cu", ".cuh", ".typed", ".md", ".svg", ".cpp", ".h", ".txt"}
    folders = ("fastnn", "kernels", "tests", "docs", "bench")
    tree = {
        str(path.relative_to(ROOT)) for name in folders for path in (ROOT / name).rglob("*") if path.suffix in kinds
    }
    wanted = {name for name in tree if not name.startswith("bench/results/")}
    wanted |= {"pyproject.toml", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert wanted - shipped == set()
    assert not [name for name in shipped if name.startswith(("bench/results/", ".")) or "__pycache__" in name]


def test_the_wheel_names_its_licence_and_its_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert any(name.endswith("licenses/LICENSE") for name in names)
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "fastnn = fastnn.cli:main" in archive.read(entry).decode()


def test_the_installed_wheel_is_what_is_imported(installed, tmp_path):
    result = _run(
        installed,
        tmp_path,
        "-c",
        "import fastnn, fastnn.kernels; print(fastnn.__file__); print(fastnn.kernels.__file__)",
    )
    for line in result.stdout.split():
        assert Path(line).is_relative_to(installed[0])


def test_the_installed_wheel_trains_and_predicts(installed, tmp_path):
    trained = _run(
        installed, tmp_path, "-W", "error", "-m", "fastnn", "train", "digits", "--hidden", "48", "--epochs", "9",
        "--learning-rate", "0.005", "--backend", "numba", "--no-plot", "--json", "--save", "digits.safetensors",
    )  # fmt: skip
    report = json.loads(trained.stdout)
    assert report["test_accuracy"] > 0.9
    code = (
        "import fastnn, numpy; print(fastnn.load('digits.safetensors', backend='numpy').predict(numpy.zeros((1, 64))))"
    )
    predicted = _run(installed, tmp_path, "-W", "error", "-c", code)
    assert re.fullmatch(r"\[\d\]", predicted.stdout.strip())


def test_the_suite_passes_on_the_installed_wheel(installed, tmp_path):
    # every CUDA source, a network's numbers on them, and model files; compiled code: the test above
    files = ["test_spec_numbers.py", "test_cuda_kernels.py", "test_model_file.py"]
    marks = ["-m", "not slow and not gpu", "-k", "not numpy and not numba and not float64"]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *marks, *(str(ROOT / "tests" / file) for file in files)]
    # python -P: the folder we are in stays off the path, or the tree would shadow the wheel
    result = _run(installed, ROOT, "-P", *command, "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}")
    assert " passed" in result.stdout
