"""The numbers of the lecture's worked example, and the mistake behind the two it gets wrong."""

import re

import numpy as np
import pytest

from fastnn import worked_example as example

# Name: digits as the lecture prints them.
PRINTED = {
    "net_h1": "0.3775",
    "out_h1": "0.593269992",
    "out_h2": "0.596884378",
    "net_o1": "1.105905967",
    "out_o1": "0.75136507",
    "out_o2": "0.772928465",
    "E_o1": "0.274811083",
    "E_o2": "0.023560026",
    "E_total": "0.298371109",
    "Delta_w5": "0.082167041",
    "Delta_w1": "0.000438568",
    "dE/dout_h1": "0.036350306",
    "w5+": "0.35891648",
    "w6+": "0.408666186",
    "w7+": "0.511301270",
    "w8+": "0.561370121",
    "w1+": "0.149780716",
    "w2+": "0.19956143",
    "w3+": "0.24975114",
    "w4+": "0.29950229",
}


@pytest.fixture(scope="module")
def result():
    return example.run()


@pytest.mark.parametrize("name", PRINTED)
def test_printed_digits(result, name):
    digits = len(PRINTED[name].split(".")[1])
    assert f"{result.values[name]:.{digits}f}" == PRINTED[name]


def test_correct_ending_to_twelve_digits(result):
    assert abs(result.correct.error_after_one - 0.29102777369359933) <= 1e-12
    assert abs(result.correct.error_after_many - 3.510187782978859e-05) <= 1e-12
    np.testing.assert_allclose(result.correct.outputs, (0.01591362044355068, 0.9840642735146238), rtol=0, atol=1e-12)


def test_updating_too_early_reproduces_what_the_lecture_prints(result):
    assert f"{result.printed.error_after_one:.9f}" == "0.291027924"
    assert [f"{out:.9f}" for out in result.printed.outputs] == ["0.015912196", "0.984065734"]
    # The printed error 0.0000351085 is not that of the printed outputs:
    h = np.array([0.015912196, 0.984065734])
    assert abs(((h - [0.01, 0.99]) ** 2).sum() / 2 - result.printed.error_after_many) < 1e-9
    assert f"{result.printed.error_after_many:.10f}" == "0.0000350848"


def test_the_two_orders_differ_in_the_hidden_weights_only():
    net = example.network()
    example.step(net)
    hidden, output = (np.array(w) for w in example.W)
    example.step_in_wrong_order(hidden, output)
    np.testing.assert_allclose(output, net.weights[1], rtol=0, atol=1e-16)
    assert (hidden != net.weights[0]).all()


def test_biases_are_held_fixed():
    net = example.network()
    example.step(net)
    np.testing.assert_array_equal(np.concatenate(net.biases), [0.35, 0.35, 0.6, 0.6])


def test_the_page_shows_every_quantity_with_its_formula(result):
    page = example.text(result)
    for name in ("net_h", "out_h", "net_o", "out_o", "E_o", "delta(3)_", "delta(2)_", "dE/dout_h"):
        for k in (1, 2):
            assert re.search(rf"{re.escape(name)}{k} = .* = -?\d", page), (name, k)
    for k in range(1, 9):
        assert re.search(rf"Delta_w{k} = dE/dw{k} = delta\(\d\)_\d \* \w+ = .* = -?0\.\d{{9}}", page)
        assert re.search(rf"w{k} := .* - 0.5 \* -?0\.\d{{9}} = {result.values[f'w{k}+']:.9f}", page)
    for number in (
        "0.291027924",
        "0.29102777369359933",
        "3.510187782978859e-05",
        "0.0000351085",
        "0.0000350848",
        "0.015912196",
        "Why they differ",
    ):
        assert number in page
