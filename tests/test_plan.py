"""The plan of the CPU engine: explained, overridden through the engine's options, and bad overrides refused."""

import copy
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import training
from fastnn.backends import cpu_machine, numba_backend
from fastnn.backends.cpu_explain import explain_plan
from fastnn.backends.cpu_plan import Plan, Problem, Wishes, choose_plan, possible_plans
from fastnn.kernels.cpu import JIT

SIZES = (784, 300, 100, 10)
needs_threads = pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")


@pytest.mark.parametrize("batch", [1, 32, 512, 8192])
@pytest.mark.parametrize("threads", [1, 2, 6])
def test_the_plan_is_the_fastest_of_those_weighed(batch, threads):
    problem = Problem(SIZES, batch, 4)
    weighed = possible_plans(problem, threads)
    teams = {1, threads, *(k for k in (2, 4) if k <= threads)}
    for sliced, panels in ((None, False), (True, True)):
        assert {plan.threads for _, plan in weighed if plan.panels == panels and sliced in (None, plan.sliced)} == teams
    assert {plan.threads for _, plan in weighed if plan.split} == (teams - {1} if batch > 1 else set())
    assert (min(seconds for seconds, _ in weighed), choose_plan(problem, threads)) in weighed


def test_the_model_by_hand():
    """784-300-100-10: 266,610 parameters, 31,000 of them transposed, 512 rows; 6 flops each, gradients between
    cores at 14 GB/s.
    """
    problem = Problem(SIZES, 512, 4)
    assert (problem.parameters, problem.turned, problem.per_row) == (266_610, 31_000, 1604)
    assert problem.slices_pay  # 266,610 of 821,248 numbers: 0.32
    assert not Problem((784, 300, 300, 10), 128, 4).slices_pay  # 328,810 of 257,024 numbers: 1.28
    flops = 6 * 266_610 * 512
    calls, turning = 9 * 0.5e-6, 31_000 * 0.35e-9
    assert problem.seconds(1, True, False) == pytest.approx(flops / 1.1e11 + calls)
    assert problem.seconds(1, True, True) == pytest.approx(flops / 1.8e11 + turning)
    assert problem.seconds(2, True, True) == pytest.approx(
        flops / 2 / 1.8e11 + turning + 4.5e-6 + 2 * 4 * 266_610 / 1.4e10
    )
    assert problem.seconds(2, False, False) == pytest.approx(flops / 2 / 1.1e11 + calls + 4.5e-6 + 4 * 266_610 / 1.4e10)
    assert Problem(SIZES, 512, 8).seconds(1, True, True) == pytest.approx(2 * flops / 1.8e11 + turning)


def test_the_model_of_shared_weights_by_hand():
    """784-300-100-10: of one lower layer 300 sums a row cross, and the gradients and parameters of 31,110 others;
    of two 400, and 1,010. Twice 64 rows are a tile.
    """
    problem = Problem(SIZES, 512, 4)
    flops, rows = 6 * 266_610 * 512, 512 * 0.06e-6
    one = 31_000 * 0.35e-9 + 4 * 4e-6 + rows + 512 * 300 * 1e-9 + 2 * 31_110 * 4 / 1.4e10
    two = (4 * 30_000 / 2 + 1000) * 0.35e-9 + 2 * 4 * 4e-6 + rows + 512 * 400 * 1e-9 + 2 * 1010 * 4 / 1.4e10
    assert (problem.split_seconds(2, 1), problem.split_seconds(2, 2)) == (pytest.approx(one), pytest.approx(two))
    assert problem.split(2) == 1
    assert problem.seconds(2, False, True) == pytest.approx(flops / 2 / 1.8e11 + one)
    assert Problem(SIZES, 32, 4).split(2) == 2  # few rows: what crosses of the second layer is less than its parameters
    assert Problem((784, 10), 32, 4).split(2) == Problem(SIZES, 1, 4).split(2) == 0
    wide = Problem((784, 1024, 1024, 10), 512, 4)
    # of each thread's own weights
    products, reading = 6 * 1_863_690 * 512 / 2 / 1.8e11, 1.3 * 4 * 1_863_690 / 2 / 1.4e10
    assert wide.seconds(2, False, True) == pytest.approx(products + reading + wide.split_seconds(2, 2))


def test_threads_that_share_weights_have_inputs_enough():
    """32 of the widest lower layer each; as many as asked for, where that is."""
    problem = Problem((70, 40, 30, 10), 64, 4)
    assert [problem.panel_forms(team, None) for team in (2, 3)] == [[True, False], [True]]
    assert [problem.panel_forms(3, wished) for wished in (True, False)] == [[True], [False]]
    assert Problem((40, 10), 64, 4).panel_forms(2, False) == [True]
    assert problem.panel_forms(3, None, has_rows=False) == [False], "a slice has at least one row"
    assert choose_plan(problem, 3, Wishes(threads=3, chunk=1, panels=True)) == Plan(3, 1, False, True, 1)
    no_layer = Problem((40, 10), 64, 4)
    assert not choose_plan(no_layer, 3, Wishes(threads=3, chunk=1, panels=True)).panels
    assert "fewer rows at a time than threads" in explain_plan(no_layer, 3, Wishes(threads=3, chunk=1, panels=True))
    assert Plan(2, 64, False, True, 1).with_rows_at_most(1) == Plan(1, 1, False, True, 0)


def test_the_price_of_a_run_by_hand():
    """A run is an epoch, at most 0.2 seconds; Adam's three vectors are packed for panels, and a team is called."""
    problem = Problem(SIZES, 512, 4, vectors=3, steps=10)
    packing = 3 * (25e-6 + 0.9e-9 * 266_610)
    assert problem.run_seconds(1, False) == 0
    assert problem.run_seconds(2, False) == pytest.approx(150e-6)
    assert problem.run_seconds(1, True) == pytest.approx(packing)
    assert problem.seconds_with_run(2, True, True) == pytest.approx(
        problem.seconds(2, True, True) + (150e-6 + packing) / 10
    )
    many = Problem(SIZES, 512, 4, vectors=3)
    assert training.SLICE_SECONDS == cpu_machine.SLICE_SECONDS == 0.2
    slow = Problem((784, 1024, 1024, 10), 65536, 4)  # a step fills more than a slice
    assert slow.seconds_with_run(2, True, False) == pytest.approx(slow.seconds(2, True, False) + 150e-6)
    assert many.seconds_with_run(1, True, True) == pytest.approx(many.seconds(1, True, True) * (1 + packing / 0.2))
    wide = Problem((784, 1024, 1024, 10), 128, 8)
    # twice the bytes, and beyond the cache
    assert wide.run_seconds(1, True) == pytest.approx(25e-6 + 2 * 0.9e-9 * 1_863_690)


@pytest.mark.parametrize(
    ("sizes", "batch", "vectors"),
    [
        (SIZES, 8, 3),
        (SIZES, 128, 3),
        ((784, 1024, 1024, 10), 128, 3),
        ((784, 16, 16, 10), 32, 1),
        ((784, 16, 16, 10), 32, 3),
    ],
)
def test_an_epoch_of_one_step_does_not_pack(sizes, batch, vectors):
    assert choose_plan(Problem(sizes, batch, 4, vectors=vectors), 2).panels
    assert choose_plan(Problem(sizes, batch, 4, vectors=vectors, steps=1000), 2).panels
    assert not choose_plan(Problem(sizes, batch, 4, vectors=vectors, steps=1), 2).panels


def test_fit_tells_the_plan_its_rows(engine_that_notes_its_programs):
    """One step an epoch, then many: fits of the same data plan the same, however many epochs each of them takes."""
    engine, programs = engine_that_notes_its_programs
    X, y = np.random.default_rng(0).random((32 * 400, 784), np.float32), np.arange(32 * 400) % 10
    net = fastnn.Network([784, 100, 100, 10], backend=engine)
    net.fit(X[:32], y[:32], batch_size=32, epochs=3)
    net.fit(X[:32], y[:32], batch_size=32, epochs=1)
    net.fit(X, y, batch_size=32, epochs=1)
    assert [program.plan.panels for program in programs] == [False, False, True]
    assert [program.training_rows for program in programs] == [32, 32, 32 * 400]
    assert [str(program.plan) for program in programs] == [
        net.plan(32, training_rows=rows) for rows in (32, 32, 32 * 400)
    ]
    assert "(at most 0.2 s, or an epoch's 1 steps)" in net.plan(32, training_rows=32, explain=True)
    with pytest.raises(ValueError, match="training_rows"):
        net.plan(32, training_rows=0)
    with pytest.raises(TypeError, match=r"optimizer must be an Optimizer, such as .*, got 'sgd'"):
        net.backend.compile(net, "sgd", 32)


@pytest.fixture
def engine_that_notes_its_programs(monkeypatch):
    engine, programs = fastnn.get_backend("numba"), []
    made = engine.program_for
    monkeypatch.setattr(engine, "program_for", lambda job: programs.append(made(job)) or programs[-1])
    return engine, programs


@pytest.mark.parametrize(
    ("problem", "panels"),
    [
        (Problem((784, 16, 16, 10), 1, 4), True),
        (Problem(SIZES, 32, 4), True),
        (Problem(SIZES, 8192, 4), True),
        (Problem((28, 300, 300, 300, 300, 1), 1, 4), True),  # nothing is transposed for one row
        (Problem((28, 300, 300, 300, 300, 1), 2, 4), False),  # transposing three layers for two rows does not pay
        (Problem((28, 300, 300, 300, 300, 1), 8, 4), True),
        (Problem((28, 300, 300, 300, 300, 1), 8, 4, mkl=True), True),
        (Problem((28, 300, 300, 300, 300, 1), 128, 4), True),
        # the digits; packing for 43 steps pays beside a BLAS that is slow with few rows
        (Problem((64, 1024, 256, 10), 32, 4, vectors=3, steps=43), True),
        (Problem((784, 1024, 1024, 10), 2, 4), True),  # BLAS goes through the parameters more often
        (Problem((784, 1024, 1024, 10), 8, 4), True),
        (Problem((784, 1024, 1024, 10), 128, 4), True),
        (Problem((784, 1024, 1024, 10), 128, 4, mkl=True), True),  # 7.1 MiB
        (Problem((784, 1024, 1024, 10), 128, 4, mkl=True, vectors=3), True),
        (Problem((784, 1024, 1024, 10), 512, 4, mkl=True), True),
        (Problem((784, 1024, 1024, 10), 2048, 4, mkl=True), True),
        (Problem((784, 1024, 1024, 10), 512, 4, mkl=True, vectors=3), False),  # three vectors to pack
        # 22 MiB, and many rows, of which every sum would cross
        (Problem((784, 2048, 2048, 10), 2048, 4, mkl=True), False),
        (Problem((784, 1536, 1536, 10), 128, 4, mkl=True), True),  # 13.7 MiB, of which each of two threads has half
        (Problem((784, 1536, 1536, 10), 1, 4, mkl=True), True),
        (Problem((784, 1024, 1024, 10), 1, 4, mkl=True), True),
        (Problem((784, 1024, 1024, 10), 128, 8), True),
        (Problem((784, 1024, 1024, 10), 256, 4), True),
        (Problem((784, 1024, 1024, 10), 8192, 4), True),
        (Problem((784, 2048, 1024, 10), 128, 4), True),  # 14.2 MiB
        (Problem((784, 2048, 1300, 10), 128, 4), True),  # 16.3 MiB
        (Problem((784, 4096, 3072, 10), 32, 4), True),  # 60.4 MiB
        (Problem((784, 4096, 4096, 10), 32, 4), False),  # 76.4 MiB
        (Problem((784, 2048, 1300, 10), 1, 4), False),
        (Problem(SIZES, 32, 4, fits_panels=False), False),
    ],
    ids=str,
)
def test_panels_where_they_pay(problem, panels):
    assert choose_plan(problem, 2).panels is panels
    for wished in (False, True):
        assert choose_plan(problem, 2, Wishes(panels=wished)).panels is (wished and problem.fits_panels)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"threads": 1}, Plan(1, 64, True, True)),
        ({"threads": 1, "panels": False}, Plan(1, 448, True)),
        ({"threads": 3}, Plan(3, 3 * 64, True, True)),
        ({"threads": 3, "panels": False}, Plan(3, 3 * 171, True)),
        ({"sliced": False}, Plan(2, 128, False, True, 1)),
        ({"sliced": False, "panels": False}, Plan(2, 512)),
        ({"chunk": 100}, Plan(2, 100, True, True)),
        ({"chunk": 100, "sliced": False}, Plan(2, 100, False, True, 1)),
        ({"chunk": 1}, Plan(1, 1, True, True)),
        ({"threads": 2, "chunk": 1}, Plan(2, 1, False, True, 1)),
        ({"threads": 2, "chunk": 31, "sliced": True}, Plan(2, 30, True, True)),
        ({"chunk": 10_000}, Plan(2, 512, True, True)),
    ],
    ids=str,
)
def test_what_is_wished_for_holds_and_the_rest_is_chosen(wishes, expected):
    assert choose_plan(Problem(SIZES, 512, 4), 2, Wishes(**wishes)) == expected


@pytest.mark.parametrize(
    ("inputs", "itemsize", "rows"),
    [(784, 4, 64), (257, 4, 64), (256, 4, 208), (128, 8, 208), (129, 8, 64), (1, 4, 208)],
)
def test_more_rows_at_a_time_where_they_are_short(inputs, itemsize, rows):
    assert choose_plan(Problem((inputs, 30, 10), 8192, itemsize), 2) == Plan(2, 2 * rows, True, True)


@pytest.mark.parametrize(
    ("sizes", "itemsize", "rows"),
    [
        ((784, 16, 16, 10), 4, 32),
        ((784, 17, 10), 4, 64),
        ((512, 16, 10), 4, 32),
        ((511, 16, 10), 4, 64),
        ((784, 16, 10), 8, 64),
        ((784, 8, 2), 8, 32),
    ],
)
def test_fewer_rows_at_a_time_where_they_are_long_and_outputs_fill_one_vector(sizes, itemsize, rows):
    assert choose_plan(Problem(sizes, 8192, itemsize), 2) == Plan(2, 2 * rows, True, True)


def test_narrow_weights_are_shared_up_to_a_batch_of_128_and_in_tiles_of_as_many():
    """As measured side by side (bench/results): slices from 256 rows on, in tiles of 32 each."""
    for sizes in ((784, 16, 16, 10), (784, 16, 10)):
        plans = [choose_plan(Problem(sizes, batch, 4, amx=True), 2) for batch in (32, 64, 128, 256)]
        assert plans == [Plan(2, batch, False, True, 1) for batch in (32, 64, 128)] + [Plan(2, 64, True, True)]
    assert "20 ns  a row of theirs" in explain_plan(Problem((784, 16, 16, 10), 128, 4), 2)
    assert "60 ns  a row of theirs" in explain_plan(Problem((784, 30, 10), 128, 4), 2)


@pytest.mark.parametrize(
    ("inputs", "batch", "rows"),
    [(28, 512, 256), (28, 600, 160), (28, 8192, 208), (784, 300, 80), (784, 190, 95), (784, 512, 64), (784, 130, 65)],
)
def test_the_tiles_of_a_slice_are_about_equally_high(inputs, batch, rows):
    assert choose_plan(Problem((inputs, 30, 10), batch, 4), 2, Wishes(threads=2, sliced=True)).chunk == 2 * rows


@pytest.mark.parametrize(("sizes", "batch", "mkl", "panels"), [
    ((28, 300, 300, 300, 300, 1), 128, True, False), ((28, 300, 300, 300, 300, 1), 127, True, True), ((28, 300, 300, 300, 300, 1), 128, False, True), ((28, 300, 300, 255, 300, 1), 128, True, True),
])  # fmt: skip
def test_mkl_multiplies_where_all_hidden_layers_are_wide_and_rows_are_many_enough_and_not_too_many(
    sizes, batch, mkl, panels
):
    assert choose_plan(Problem(sizes, batch, 4, mkl=mkl), 2).panels == panels
    assert choose_plan(Problem(sizes, 512, 4, mkl=mkl), 2).panels


def test_the_explanation_shows_the_choice_among_its_alternatives_with_their_times():
    problem = Problem(SIZES, 512, 4)
    text = explain_plan(problem, 2)
    chosen = choose_plan(problem, 2)
    assert text.splitlines()[0] == str(chosen)
    shown = re.findall(r"^  (->|  ) +([\d,.]+) us predicted: (.*)$", text, re.M)
    assert [(mark == "->", float(us.replace(",", "")), plan) for mark, us, plan in shown] == [
        (plan == chosen, pytest.approx(seconds * 1e6, abs=0.06), str(plan))
        for seconds, plan in possible_plans(problem, 2)
    ]
    assert "slices of the batch, whose 266,610 gradients are added up" in text
    assert (
        "12,800 sums of rows and as many deltas cross between cores, instead of 266,610 gradients and parameters"
    ) in explain_plan(Problem(SIZES, 32, 4), 2)
    assert "180 GFLOP/s  products in panels" in text
    assert "110 GFLOP/s  products by BLAS" in text
    assert "not measured on this machine" in text
    asked = explain_plan(problem, 2, Wishes(threads=1, chunk=7, sliced=True))
    assert asked.count("as asked for") == 3
    assert explain_plan(problem, 2, Wishes(panels=False)).count("by BLAS, as asked for") == 1
    large = (784, 4096, 4096, 10)
    of_shared = "and up to 64 MiB where threads share weights)"
    beside_mkl = explain_plan(Problem(large, 128, 4, mkl=True), 2)
    assert (
        "76.4 MiB of parameters do not stay in or near a core's cache (panels up to 10 MiB, and up to 16 MiB for one "
        f"row, beside MKL, {of_shared}"
    ) in beside_mkl
    assert (
        "76.4 MiB of parameters do not stay in or near a core's cache (panels up to 16 MiB beside this BLAS, "
        f"{of_shared}"
    ) in explain_plan(Problem(large, 512, 4), 2)
    assert ("256 per thread, with which parameters from beyond the cache are read seldom") in explain_plan(
        Problem((784, 1024, 1024, 10), 512, 4), 2
    )
    assert "0.75 x 512 rows" in explain_plan(problem, 2, Wishes(panels=False))
    assert "panels do not do rules with norms of layers" in explain_plan(Problem(SIZES, 32, 4, fits_panels=False), 2)


@needs_threads
@pytest.mark.parametrize(("library", "panels"), [(None, True), (object(), False)], ids=["SciPy's BLAS", "MKL"])
def test_the_engine_tells_the_model_its_blas(monkeypatch, library, panels):
    engine = fastnn.get_backend("numba", threads=2, amx=False)
    monkeypatch.setattr(engine, "blas", replace(engine.blas, library=library))
    net = fastnn.Network([784, 2048, 2048, 10], backend=engine, init="zeros")
    assert ("in panels" in net.plan(2048, optimizer="sgd")) is panels
    assert ("180 GFLOP/s  products by BLAS" in net.plan(2048, explain=True, optimizer="sgd")) is not panels


def test_every_engine_explains_itself(backend):
    net = fastnn.Network([4, 3, 2], backend=backend)
    assert net.plan(2, explain=True).splitlines()[0] == net.plan(2)


@pytest.mark.parametrize("rule", sorted(fastnn.optimizers.OPTIMIZERS))
def test_the_plan_that_is_told_is_the_one_that_runs(rule):
    """Also for rules that panels do not do."""
    net = fastnn.Network([64, 16, 10], backend="numba")
    program = net.backend.compile(net, fastnn.optimizers.get(rule), 32)
    assert net.plan(32, optimizer=rule) == str(program.plan)
    assert program.plan.panels is (rule not in ("lars", "lamb"))
    assert net.plan(32, explain=True, optimizer=rule).splitlines()[0] == str(program.plan)


@needs_threads
def test_an_override_is_what_runs():
    engine = fastnn.get_backend("numba", threads=2, chunk=6, sliced=True, panels=False)
    assert engine is not fastnn.get_backend("numba")
    net = fastnn.Network([4, 3, 2], backend=engine)
    program = engine.compile(net, fastnn.optimizers.SGD(), 10)
    assert program.plan == Plan(2, 6, True)
    assert net.plan(10) == str(Plan(2, 6, True))
    again = fastnn.Network([4, 3, 2], backend="numba")
    assert again.plan(10) == str(Plan(1, 10, True, True)), "other networks choose for themselves"


@needs_threads
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_a_network_keeps_the_override(copied):
    net = fastnn.Network([4, 3, 2], backend=fastnn.get_backend("numba", threads=3, chunk=9, panels=False))
    assert copied(net).plan(100) == net.plan(100) == str(Plan(3, 9, True))


@needs_threads
@pytest.mark.parametrize(("options", "team"), [({"threads": 1}, 1), ({"threads": 3}, 3)], ids=str)
def test_a_prediction_takes_no_more_threads_than_wished(monkeypatch, options, team):
    """By BLAS, or in parts where there is a matrix unit."""
    teams = []
    run_team, run_parts = numba_backend.run_team, numba_backend.run_parts
    monkeypatch.setattr(numba_backend, "run_team", lambda work, team: teams.append(team) or run_team(work, team))
    monkeypatch.setattr(
        numba_backend, "run_parts", lambda work, parts, team: teams.append(team) or run_parts(work, parts, team)
    )
    X = np.random.default_rng(0).random((2000, 784), np.float32)
    net = fastnn.Network(SIZES, backend=fastnn.get_backend("numba", **options))
    expected = fastnn.Network(SIZES, backend="numpy").predict_proba(X)
    np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-5)
    assert set(teams) == {team}


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("numba", {"thread": 1}, ValueError, "no option 'thread'; did you mean 'threads'"),
        ("numba", {"threads": 0}, ValueError, "threads must be a positive integer, got 0"),
        ("numba", {"threads": True}, TypeError, "threads must be a positive integer, got True"),
        ("numba", {"chunk": 2.5}, TypeError, "chunk must be a positive integer, got 2.5"),
        ("numba", {"panels": "yes"}, TypeError, "panels must be True, False or None, got 'yes'"),
        ("numba", {"sliced": 1}, TypeError, "sliced must be True, False or None, got 1"),
        ("numba", {"threads": 1, "chunk": -1}, ValueError, "chunk must be"),
        ("numba", {"threads": 4, "chunk": 2, "sliced": True}, ValueError, "chunk=2 .* threads=4"),
        ("numpy", {"threads": 1}, ValueError, "the numpy engine has no options"),
        ("auto", {"threads": 1}, ValueError, "options are for an engine asked for by name"),
    ],
    ids=str,
)
def test_numba_options_that_make_no_sense_are_refused_by_name(name, options, error, words):
    with pytest.raises(error, match=words):
        fastnn.get_backend(name, **options)


@pytest.mark.skipif(JIT, reason="about code that is not compiled")
def test_numba_without_jit_refuses_threads():
    with pytest.raises(ValueError, match="NUMBA_DISABLE_JIT"):
        fastnn.get_backend("numba", threads=2)


@pytest.mark.parametrize("as_json", [False, True])
def test_train_explains_on_request(tmp_path, as_json):
    command = [
        sys.executable,
        "-m",
        "fastnn",
        "train",
        "digits",
        "--backend",
        "numba",
        "--epochs",
        "1",
        "--no-plot",
        "--explain",
        *(["--json"] if as_json else []),
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    text = "\n".join(json.loads(result.stdout)["engine"]["plan"]) if as_json else result.stdout
    assert "us predicted" in text
    assert "form: " in text


@pytest.mark.slow
@needs_threads
def test_the_bench_of_plans_compares_them_and_checks_their_results(tmp_path):
    script = Path(__file__).parents[1] / "bench" / "plans.py"
    if not script.exists():
        pytest.skip("bench/ is not beside the tests")
    command = [
        sys.executable,
        str(script),
        "--case",
        "784-16-16-10@32",
        "--seconds",
        "0.005",
        "--rounds",
        "1",
        "--json",
        str(tmp_path / "plans.json"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "784-16-16-10@32" in result.stdout
    (cell,) = json.loads((tmp_path / "plans.json").read_text())["cells"]
    assert cell["automatic"] in {plan["plan"] for plan in cell["plans"]}
    assert all(plan["agrees"] for plan in cell["plans"])
    assert 0 < cell["share_of_best"] <= 1
