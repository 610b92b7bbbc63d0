"""Histograms of durations: quantiles against those of the numbers themselves, and the way over /diagnostics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hand_driver.histogram import BUCKETS, PER_OCTAVE, Histogram, bucket_end, read_figures

WIDTH = 2.0 ** (1.0 / PER_OCTAVE)
durations = st.lists(st.floats(1e-6, 60.0), min_size=1, max_size=300)


def of(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(durations, st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_at_most_a_bucket_above_the_true_one(values: list[float], share: float) -> None:
    true = float(np.quantile(values, share, method="inverted_cdf"))
    found = of(values).quantile(share)
    assert true * (1 - 1e-9) <= found <= true * WIDTH * (1 + 1e-9)


@given(durations)
def test_the_longest_is_exact_and_all_are_counted(values: list[float]) -> None:
    made = of(values)
    assert made.longest == max(0.0, *(v for v in values if v > 1e-6), 0.0)
    assert made.count == len(values)


def test_without_any_there_is_no_quantile() -> None:
    assert math.isnan(Histogram().quantile(0.5)) and Histogram().longest == 0.0


def test_what_no_clock_can_say_does_no_harm() -> None:
    made = of([-1.0, 0.0, float("nan"), float("inf"), 1e9])
    assert made.count == 3
    assert made.buckets() == f"0:2 {BUCKETS - 1}:1"
    assert made.longest == 1e9


@given(durations, durations)
def test_a_part_of_its_life_is_the_difference_of_two_readings(before: list[float], then: list[float]) -> None:
    made = of(before)
    early = read_figures("late", dict(made.figures("late")))
    for value in then:
        made.add(value)
    part = read_figures("late", dict(made.figures("late"))).since(early)
    assert part.buckets() == of(then).buckets()
    longest = of(then).longest
    assert longest - 1e-6 <= part.longest <= max(longest, 1e-6) * WIDTH + 1e-6


def test_a_reading_of_another_life_is_refused() -> None:
    with pytest.raises(ValueError, match="began anew"):
        of([0.1]).since(of([0.1, 0.1]))


@pytest.mark.parametrize("text", ["1", "1:2:3", "x:1", "1:-1", f"{BUCKETS}:1"])
def test_text_that_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="INDEX:COUNT"):
        Histogram.parse(text)


def test_figures_name_quantiles_and_longest_in_microseconds() -> None:
    figures = dict(of([0.001] * 99 + [0.1]).figures("late"))
    assert list(figures) == ["late_p50_us", "late_p99_us", "late_p999_us", "late_max_us", "late_buckets"]
    assert 1000 <= int(figures["late_p50_us"]) <= 1000 * WIDTH
    assert figures["late_p999_us"] == figures["late_max_us"] == "100000"
    assert [bucket_end(int(e.split(":")[0])) >= 0.001 for e in figures["late_buckets"].split()] == [True] * 2


def test_nothing_was_measured_yet() -> None:
    assert dict(Histogram().figures("late")) == {"late_max_us": "0", "late_buckets": ""}
