"""Compiled code on disk: kept per state of the sources, and missing only with a warning. (That it is read back:
test_numba_beside.py.)"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastnn.kernels.cpu

SOURCES = Path(fastnn.kernels.cpu.__file__).parent


def _run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_an_edit_in_any_kernel_file_chooses_another_folder(tmp_path):
    # A copy of the package under another name, so that nothing of the tree is touched.
    copy = tmp_path / "copied_kernels"
    shutil.copytree(SOURCES, copy)
    code = "import copied_kernels; print(copied_kernels._source_hash())"
    before = _run(code, PYTHONPATH=str(tmp_path)).stdout
    with (copy / "elementary.py").open("a") as file:
        file.write("# an edit\n")
    after = _run(code, PYTHONPATH=str(tmp_path)).stdout
    assert before.strip()
    assert after.strip()
    assert before != after


def test_a_folder_that_cannot_be_written_is_said_and_training_still_works(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    result = _run("import fastnn.kernels.cpu as cpu; print(cpu.CACHE_FOLDER)", NUMBA_CACHE_DIR=str(blocked))
    assert result.stdout.strip() == "None"
    assert "cannot be kept" in result.stderr
    assert "NUMBA_CACHE_DIR" in result.stderr
