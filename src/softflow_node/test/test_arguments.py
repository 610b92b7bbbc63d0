"""Numbers on a command line."""

from __future__ import annotations

import argparse

import pytest

from softflow_node.arguments import within


def test_a_number_within_its_bounds_has_the_asked_type() -> None:
    whole, number = within(int, 1, 10**9)("10"), within(float, 0, 2)("1")
    assert (whole, type(whole), number, type(number)) == (10, int, 1.0, float)


@pytest.mark.parametrize("text", ["0", "11", "1.5", "x", "", "nan", "\u00b2"])
def test_any_other_text_is_named_with_the_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        within(int, 1, 10)(text)
    assert str(error.value) == f"is {text!r}, must be a whole number in [1, 10]"


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "one"])
def test_a_float_is_finite_and_within(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        within(float, 0, 1)(text)
    assert str(error.value) == f"is {text!r}, must be a number in [0, 1]"
