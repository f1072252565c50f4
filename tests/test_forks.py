"""A child that is forked while other threads of its parent train: nothing that they held stays held there.

Each case runs in a process of its own, because Python warns of forks beside threads, and a child that hangs must be
ended.
"""

import os
import subprocess
import sys
import textwrap

import pytest

from fastnn.kernels.cpu import JIT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

START = """
import os, signal, sys, threading, time
import numpy as np
import fastnn

def in_child(act):
    '''Ends with what the child says: 0 if act() is true there, 3 if not, by SIGALRM if it hangs.'''
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            code = 0 if act() else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

X, y = np.random.default_rng(0).standard_normal((4000, 64)), np.arange(4000) % 10
"""


def run(code, *arguments):
    """The exit code of a script, whose warnings are errors but for that of the fork itself."""
    words = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore:This process:DeprecationWarning",
        "-c",
        START + textwrap.dedent(code),
        *arguments,
    ]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr == ""
    return result.returncode


# The products of the NumPy engine's networks here are too small for OpenBLAS to use threads: NumPy alone hangs in a
# fork beside a product for which OpenBLAS uses them.
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_network_that_the_parent_trains_is_trained_predicted_with_and_copied_in_the_child(engine):
    assert not run(
        """
        import copy
        net = fastnn.Network([64, 256 if sys.argv[1] == "numba" else 16, 10], backend=sys.argv[1])
        net.fit(X, y, epochs=1, batch_size=8)
        begun, enough = threading.Event(), threading.Event()

        def callback(epoch, history, net):
            begun.set()
            return enough.is_set()

        training = threading.Thread(target=lambda: net.fit(X, y, epochs=10**6, batch_size=8, callbacks=[callback]))
        training.start()
        begun.wait()
        time.sleep(0.02)

        def act():
            before = net.theta.copy()
            copy.deepcopy(net).fit(X, y, epochs=1, batch_size=8)
            assert (net.theta == before).all(), "nobody trains it here"
            net.fit(X, y, epochs=2, batch_size=8)
            return (net.theta != before).any() and net.predict(X).shape == (4000,)

        code = in_child(act)
        try:
            net.fit(X, y, epochs=1, batch_size=8)
        except RuntimeError as error:
            assert "in another thread" in str(error), error
        else:
            code = 4  # in the parent it must still be refused
        enough.set()
        training.join()
        sys.exit(code)
        """,
        engine,
    )


def test_a_child_forked_in_a_callback_goes_on_and_ends_its_fit():
    """There the thread that trains is the child's own."""
    assert not run(
        """
        net = fastnn.Network([64, 16, 10], backend="numba")
        child = None

        def callback(epoch, history, net):
            global child
            if epoch == 0:
                child = os.fork()

        net.fit(X, y, epochs=3, callbacks=[callback])
        net.fit(X, y, epochs=1, batch_size=8)
        from fastnn.backends import cpu_threads
        code = 0 if net.epochs_trained == 4 and not cpu_threads._busy else 3
        if child == 0:
            os._exit(code)
        sys.exit(code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )


def test_ctrl_c_in_a_child_of_another_thread_acts_at_once():
    """While a slice runs, the parent's first Ctrl-C only waits for the slice's end; the child has no slice."""
    assert not run(
        """
        from fastnn import interrupts
        codes = []

        def act():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            except KeyboardInterrupt:
                return True

        def fork():
            while not isinstance(signal.getsignal(signal.SIGINT), interrupts._Remember):
                time.sleep(0.001)
            codes.append(in_child(act))

        forking = threading.Thread(target=fork)
        forking.start()
        net = fastnn.Network([64, 16, 10], backend="numpy")
        net.fit(X, y, epochs=10**6, batch_size=8, callbacks=[lambda *_: bool(codes)])
        forking.join()
        sys.exit(codes[0])
        """
    )


def test_a_fork_waits_for_an_engine_that_is_being_loaded():
    assert not run(
        """
        import importlib
        begun, load = threading.Event(), importlib.import_module

        def slowly(*arguments):
            begun.set()
            time.sleep(0.3)
            return load(*arguments)

        importlib.import_module = slowly
        loading = threading.Thread(target=lambda: fastnn.get_backend("numba"))
        loading.start()
        begun.wait()
        code = in_child(lambda: fastnn.get_backend("numba").name == "numba")
        loading.join()
        sys.exit(code)
        """
    )


@pytest.mark.skipif(not JIT, reason="without JIT no BLAS is told anything")
@pytest.mark.parametrize("count", ["1", "before"], ids=["while it is told", "while it is restored"])
def test_blas_has_its_threads_back_in_a_child_forked_halfway(count):
    assert not run(
        """
        from fastnn.backends import cpu_threads
        fastnn.get_backend("numba")
        libraries = cpu_threads._blas()  # NumPy's and SciPy's
        halfway, go_on, set_threads = threading.Event(), threading.Event(), cpu_threads._set_threads

        def slowly(library, threads):
            if threading.current_thread() is holding and library is libraries[-1] and ((threads == 1) == (sys.argv[1] == "1")):
                halfway.set()
                go_on.wait()
            set_threads(library, threads)

        for library in libraries:
            set_threads(library, 2)
        before = [library.get_num_threads() for library in libraries]
        cpu_threads._set_threads = slowly

        def hold():
            with cpu_threads.blas_on_one_thread():
                pass

        holding = threading.Thread(target=hold)
        holding.start()
        halfway.wait()

        def act():
            with cpu_threads.blas_on_one_thread():
                pass
            return [library.get_num_threads() for library in libraries] == before

        code = in_child(act)
        go_on.set()
        holding.join()
        sys.exit(code)
        """,
        count,
    )


def test_a_child_has_threads_of_its_own_for_a_run():
    """Those that waited in the parent are not there."""
    assert not run(
        """
        from fastnn.backends import cpu_crew
        here = cpu_crew.run_team(lambda me: threading.get_native_id(), 3)
        sys.exit(in_child(lambda: len({*here, *cpu_crew.run_team(lambda me: threading.get_native_id(), 3)}) == 6))
        """
    )


@pytest.mark.skipif(not JIT, reason="helpers work in compiled code")
def test_a_child_that_is_forked_beside_rows_with_helpers_predicts_without_them():
    assert not run(
        """
        from fastnn.backends import cpu_row
        net = fastnn.Network([784, 500, 400, 10], backend=fastnn.get_backend("numba", threads=2))
        x, enough, wrong = np.random.default_rng(0).random((1, 784), np.float32), threading.Event(), []
        expected = net.predict_proba(x)

        def predict():
            while not enough.is_set():
                wrong.extend([1] * (not np.array_equal(net.predict_proba(x), expected)))

        predicting = threading.Thread(target=predict)
        predicting.start()
        codes = [in_child(lambda: not cpu_row._seats.any() and np.array_equal(net.predict_proba(x), expected)) for _ in range(20)]
        enough.set()
        predicting.join()
        sys.exit(max(map(abs, codes)) or len(wrong))
        """
    )
