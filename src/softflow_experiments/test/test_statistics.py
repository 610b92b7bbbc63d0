"""Intervals cover the mean as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from softflow_experiments.statistics import bootstrap, bootstrap_nested


def test_bootstrap_covers_the_mean_of_normal_data() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        estimate = bootstrap(rng.normal(3.0, 1.0, 30).tolist(), resamples=500)
        hits += estimate.low <= 3.0 <= estimate.high
    assert 0.87 <= hits / 200 <= 0.99


def test_bootstrap_is_repeatable_and_refuses_nothing() -> None:
    assert bootstrap([1.0, 2.0, 5.0]) == bootstrap([1.0, 2.0, 5.0])
    with pytest.raises(ValueError, match="0 entries"):
        bootstrap([])


def test_nested_bootstrap_of_one_group_is_the_plain_one() -> None:
    values = np.random.default_rng(1).normal(size=40).tolist()
    plain, nested = bootstrap(values), bootstrap_nested([values])
    assert (nested.mean, nested.n) == (pytest.approx(plain.mean), plain.n)
    assert nested.low == pytest.approx(plain.low, abs=0.02) and nested.high == pytest.approx(
        plain.high, abs=0.02
    )


def test_nested_bootstrap_sees_that_seeds_differ() -> None:
    rng = np.random.default_rng(2)
    # Little scatter within a seed, much between seeds: more episodes would not narrow the interval.
    groups = [(mean + 0.01 * rng.normal(size=50)).tolist() for mean in (0.0, 1.0, 2.0, 3.0, 4.0)]
    nested, pooled = bootstrap_nested(groups), bootstrap([v for group in groups for v in group])
    assert nested.mean == pytest.approx(pooled.mean)
    assert nested.high - nested.low > 3 * (pooled.high - pooled.low)


def test_nested_bootstrap_covers_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        means = rng.normal(3.0, 1.0, 20)
        estimate = bootstrap_nested([rng.normal(m, 0.5, 10).tolist() for m in means], resamples=400)
        hits += estimate.low <= 3.0 <= estimate.high
    assert 0.86 <= hits / 200 <= 0.99


def test_groups_that_differ_in_size_weigh_the_same() -> None:
    assert bootstrap_nested([[0.0] * 30, [1.0] * 3]).mean == 0.5
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        bootstrap_nested([[1.0], []])
