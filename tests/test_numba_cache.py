"""Compiled code on disk: kept per state of the sources, and missing only with a warning. (That it is read back:
test_numba_beside.py.)"""

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from numba.core.caching import NullCache

import fastnn.kernels.cpu
from fastnn.kernels.cpu import JIT, once

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
    shutil.copytree(SOURCES.parent, copy)
    code = "import copied_kernels.cpu; print(copied_kernels.cpu._source_hash())"
    before = _run(code, PYTHONPATH=str(tmp_path)).stdout
    with (copy / "cpu" / "elementary.py").open("a") as file:
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


@pytest.mark.skipif(not fastnn.kernels.cpu.JIT, reason="about code that is compiled")
def test_a_ctrl_c_waits_for_what_is_compiled_at_the_first_call(monkeypatch):
    """Amid that it would leave memory of the compiler which is freed twice."""
    entered, left = [], []

    @contextlib.contextmanager
    def held_back():
        entered.append(1)
        yield
        left.append(1)

    monkeypatch.setattr(fastnn.kernels.cpu, "_undisturbed", held_back)
    monkeypatch.setattr(fastnn.kernels.cpu, "CACHE_FOLDER", None)
    double = fastnn.kernels.cpu.compiled(lambda x: x + x)
    assert (len(entered), len(left)) == (1, 1), "while it is decorated"
    assert double(2.0) == 4.0
    assert (len(entered), len(left)) == (2, 2), "while it is compiled"
    assert double(3.0) == 6.0
    assert len(entered) == 2, "later calls cost nothing"
    assert double(1) == 2
    assert len(entered) == 3, "another type"


@pytest.mark.skipif(not JIT, reason="about code that is compiled")
def test_threads_that_load_kernels_leave_numbas_settings_alone():
    """Where Numba keeps code is one setting of the process: a thread that restored what another had set would leave
    fastnn's folder there, and the next user of Numba would cache into it.
    """
    code = """
        import sys, threading
        import numba, numpy as np
        import fastnn
        sys.setswitchinterval(1e-5)
        before, made = numba.config.CACHE_DIR, []
        start = threading.Barrier(4)
        def work(dtype):
            net = fastnn.Network([4, 3, 2], backend="numba", dtype=dtype)
            start.wait()
            net.fit(np.ones((8, 4)), np.arange(8) % 2, epochs=1)
            made.append(net.predict(np.ones((8, 4))))
        threads = [threading.Thread(target=work, args=(dtype,)) for dtype in ("float32", "float64") * 2]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(made), before == numba.config.CACHE_DIR)
    """
    done = _run(textwrap.dedent(code))
    assert (done.stdout.split(), done.stderr) == (["4", "True"], "")


def test_what_several_threads_ask_for_is_made_once():
    calls, answers = [], []

    @once
    def make(key):
        calls.append(key)
        time.sleep(0.05)
        return object()

    threads = [threading.Thread(target=lambda: answers.append(make("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["a"]
    assert len(set(map(id, answers))) == 1


# predictions of several rows, which take many functions and little time to compile
PREDICTED = textwrap.dedent("""
    import fastnn, numpy as np
    net = fastnn.Network([5, 6, 3], backend="numba", dtype="float64", hidden="sigmoid", seed=0)
    print(net.predict_proba(np.random.default_rng(0).random((40, 5))).sum(axis=0))
""")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with what PREDICTED compiles, to be copied, and what it prints."""
    folder = tmp_path_factory.mktemp("kept")
    first = _run(PREDICTED, NUMBA_CACHE_DIR=str(folder))
    assert (first.stderr, first.returncode) == ("", 0)
    return folder, first.stdout


@pytest.mark.skipif(not JIT, reason="about code that is compiled")
def test_damaged_files_are_compiled_anew(tmp_path, kept):
    """A power loss, say, left them; nobody should have to know which folder to delete. Of one function the code is cut
    short, of the next the index holds other bytes.
    """
    folder, printed = kept
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    functions = sorted({path.name.partition("-")[0] for path in tmp_path.rglob("*.nbc")})
    cut, garbled = functions[::2], functions[1::2]
    assert min(len(cut), len(garbled)) > 5
    damaged = {}
    for path in tmp_path.rglob("*.nb*"):
        if path.name.partition("-")[0] in garbled:
            path.write_bytes(b"no pickle")
        elif path.suffix == ".nbc":
            path.write_bytes(path.read_bytes()[:2000])
        else:
            continue
        damaged[path] = path.stat().st_size
    again = _run(PREDICTED, NUMBA_CACHE_DIR=str(tmp_path))
    assert (again.stdout, again.stderr, again.returncode) == (printed, "", 0)
    assert all(path.stat().st_size != size for path, size in damaged.items()), "and kept again"


@pytest.mark.skipif(not JIT, reason="about code that is compiled")
def test_a_full_disk_is_said_once_and_predictions_go_on(tmp_path, kept):
    """Several functions are missing on it, and none of them can be kept."""
    shutil.copytree(kept[0], tmp_path, dirs_exist_ok=True)
    missing = [path for path in tmp_path.rglob("*.nb*") if path.name.startswith(("prediction.", "program."))]
    assert len({path.name.partition("-")[0] for path in missing}) > 2
    for path in missing:
        path.unlink()
    full = """
        import errno, numba.core.caching
        def save(self, key, data):
            refused.append(key)
            raise OSError(errno.ENOSPC, "No space left on device")
        refused, numba.core.caching.IndexDataCacheFile.save = [], save
    """
    result = _run(textwrap.dedent(full) + PREDICTED + "print(len(refused) > 2)\n", NUMBA_CACHE_DIR=str(tmp_path))
    assert (result.returncode, result.stdout) == (0, kept[1] + "True\n")
    assert result.stderr.count("cannot be kept") == 1
    assert "(No space left on device)" in result.stderr


def test_what_older_sources_left_is_removed_when_nobody_used_it_for_long(tmp_path):
    root = tmp_path / "fastnn"
    for name, days in (("numba-old", 61), ("numba-young", 59), ("other", 100)):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text("x")
        os.utime(root / name, (time.time() - days * 86_400,) * 2)
    assert _run("import fastnn.kernels.cpu", NUMBA_CACHE_DIR=str(tmp_path)).returncode == 0
    found = {path.name for path in root.iterdir()}
    assert "numba-old" not in found
    assert {"numba-young", "other"} <= found
    assert len(found) == 3


def test_code_in_a_zip_is_compiled_anew_and_that_is_said(monkeypatch):
    """Numba keeps nothing of a function whose source file it does not find."""

    class Unlocated:
        def __init__(self, function):
            raise RuntimeError(
                f"cannot cache function {function.__name__!r}: no locator available for file 'x.zip/y.py'"
            )

    fastnn.kernels.cpu._warn_once.cache_clear()
    monkeypatch.setattr(fastnn.kernels.cpu, "_Kept", Unlocated)
    monkeypatch.setattr(fastnn.kernels.cpu, "CACHE_FOLDER", Path("anywhere"))
    with pytest.warns(RuntimeWarning, match=r"cannot be kept in anywhere \(cannot cache function .*compiles anew"):
        assert isinstance(fastnn.kernels.cpu._kept(lambda: None), NullCache)
    fastnn.kernels.cpu._warn_once.cache_clear()
