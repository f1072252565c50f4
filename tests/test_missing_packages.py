"""Without Numba, without SciPy, or with no folder for compiled code: said once, and training works all the same."""

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastnn

TRAIN = """
    X = np.random.default_rng(0).standard_normal((200, 6))
    net = fastnn.Network([6, 8, 3], seed=1)
    net.fit(X, X[:, :3].argmax(axis=1), epochs=3, batch_size=20)
    np.save(target, net.theta)
    assert net.predict(X).shape == (200,)
"""


def _run(code, folder, *flags, **environment):
    script = "import sys, numpy as np\n" + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, *flags, "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def expected():
    X = np.random.default_rng(0).standard_normal((200, 6))
    net = fastnn.Network([6, 8, 3], seed=1, backend="numpy")
    net.fit(X, X[:, :3].argmax(axis=1), epochs=3, batch_size=20)
    return net.theta


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a:.4f},{b:.4f},{int(a > b)}" for a, b in rng.standard_normal((80, 2)))
    (tmp_path / "table.csv").write_text(f"a,b,target\n{rows}\n")
    return tmp_path


MISSING = pytest.mark.parametrize(
    ("package", "reason"),
    [("numba", "Numba cannot be imported"), ("scipy", "SciPy, whose BLAS Numba calls, cannot be imported")],
)


@MISSING
def test_the_numpy_engine_is_taken_and_says_why(tmp_path, expected, package, reason):
    code = (
        f"sys.modules[{package!r}] = None  # importing it fails\nimport fastnn\ntarget = "
        f"'theta.npy'\n{textwrap.dedent(TRAIN)}\nprint(net.backend_reason)"
    )
    result = _run(code, tmp_path, "-W", "error")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("numpy: the best engine that can be used here;")
    assert result.stdout.count(reason) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "theta.npy"), expected)


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    """Its kernels lie beside the package; Python run in its folder finds the package alone."""
    code = """
        class WithoutKernels:
            def find_spec(self, name, *rest):
                if name == "fastnn.kernels":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, WithoutKernels())
        import fastnn
        print(fastnn.Network([2, 2]).backend_reason)
    """
    result = _run(code, tmp_path, "-W", "error")
    assert result.returncode == 0, result.stderr
    assert (
        "numba not taken: this fastnn is a checkout that is not installed: run pip install -e . in it"
    ) in result.stdout


@MISSING
def test_by_name_it_is_refused_with_the_command_that_installs_it(tmp_path, package, reason):
    code = f"sys.modules[{package!r}] = None\nimport fastnn\nfastnn.Network([2, 2], backend='numba')"
    result = _run(code, tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert "BackendUnavailable: backend='numba' cannot be used: " in last
    assert reason in last
    assert last.endswith('To install it: pip install ".[cpu]" in the folder of a clone of fastnn')


@MISSING
def test_the_command_line_says_so_once(table, package, reason):
    command = "['fastnn', 'train', 'table.csv', '--target', 'target', '--epochs', '2', '--no-plot']"
    result = _run(f"sys.modules[{package!r}] = None\nsys.argv = {command}\nfrom fastnn.cli import main\nmain()", table)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count(reason) == 1
    assert (table / "runs" / "table.safetensors").exists()


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_said_once_and_training_works(table, expected):
    (table / "blocked").write_text("a file, not a folder")
    command = (
        "['fastnn', 'train', 'table.csv', '--target', 'target', '--backend', 'numba', '--epochs', '2', '--no-plot']"
    )
    # The command in the same process as the fit, because each process compiles anew.
    code = f"""
        import fastnn
        sys.argv = {command}
        from fastnn.cli import main
        try:
            main()
        except SystemExit as end:
            assert not end.code
        target = 'theta.npy'
    """
    result = _run(textwrap.dedent(code) + textwrap.dedent(TRAIN), table, NUMBA_CACHE_DIR=str(table / "blocked"))
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert said.count("cannot be kept") == 1
    assert said.count("NUMBA_CACHE_DIR") == 1
    assert "RuntimeWarning" not in said, "a line for people, not Python's"
    np.testing.assert_allclose(np.load(table / "theta.npy"), expected, rtol=0, atol=2000 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("module", ["sklearn", "sklearn.utils.validation"])
def test_without_scikit_learn_the_estimators_say_so_and_the_rest_works(tmp_path, module):
    """Or with one that is too old."""
    code = f"""
        sys.modules[{module!r}] = None
        import fastnn
        net = fastnn.Network([2, 2], backend="numpy")
        fastnn.estimators
    """
    last = _run(code, tmp_path).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastnn.estimators needs scikit-learn 1.6 or later, which cannot be imported (")
    assert last.endswith('): pip install ".[sklearn]" in the folder of a clone of fastnn')


def test_a_network_that_chose_its_engine_travels_to_where_that_is_missing(tmp_path):
    """Pickled where Numba is, by someone who never asked for it, and read where it is not."""
    rng = np.random.default_rng(0)
    net = fastnn.Network([4, 3, 2])
    named = fastnn.Network([4, 3, 2], backend="numba")
    X = rng.random((5, 4))
    (tmp_path / "net.pickle").write_bytes(pickle.dumps((net, net.predict_proba(X), X)))
    (tmp_path / "named.pickle").write_bytes(pickle.dumps(named))
    code = """
        sys.modules["numba"] = None
        import pickle
        import numpy as np
        from fastnn import BackendUnavailable
        net, expected, X = pickle.load(open("net.pickle", "rb"))
        np.testing.assert_allclose(net.predict_proba(X), expected, rtol=1e-5)
        try:
            pickle.load(open("named.pickle", "rb"))
        except BackendUnavailable as error:
            print(net.backend_reason, error)
    """
    result = _run(textwrap.dedent(code), tmp_path, "-W", "error")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("numpy: the best engine that can be used here;")
    assert "backend='numba' cannot be used" in result.stdout


def test_all_names_of_fastnn_can_be_looked_at_without_scikit_learn(tmp_path):
    code = """
        sys.modules["sklearn"] = None
        import inspect
        import fastnn
        from fastnn import *
        names = dict(inspect.getmembers(fastnn))
        assert Network is fastnn.Network and "load" in names
        try:
            fastnn.estimators
        except ImportError as error:
            print(error)
    """
    result = _run(textwrap.dedent(code), tmp_path, "-W", "error")
    assert result.returncode == 0, result.stderr
    assert "fastnn.estimators needs scikit-learn" in result.stdout
