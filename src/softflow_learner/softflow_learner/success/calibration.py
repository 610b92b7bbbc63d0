"""From a network's logits to probabilities that mean what they say, and from those to a threshold. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow_policy.success.scaling import FloatArray, Scaling, sigmoid

Truth = NDArray[np.bool_]

BINS = 10
"""Of the reliability curve, of equal width."""
SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds of the table."""
SMALLEST = 1e-4
"""Of the logits' scale: the order of two pictures is never turned round."""
ITERATIONS = 200


class UnreachableError(ValueError):
    """No threshold gives the precision that is wanted; the text says what the best one gives."""


def logit(p: float) -> float:
    """Inverse of the sigmoid, finite for 0 and 1 too."""
    tiny = 1e-12
    return float(np.log(max(p, tiny)) - np.log(max(1.0 - p, tiny)))


def fit_scaling(logits: FloatArray, truth: Truth) -> Scaling:
    """Temperature and bias of least cross-entropy against Platt's softened targets.

    Softened (Platt 1999, "Probabilistic outputs for support vector machines", section 2.2), for a few pictures that a
    line separates would else give a temperature of zero. Newton's method, halving steps that do not help.

    Args:
        logits: (N,)
        truth: (N,), of both kinds at least one.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(logits.mean()), max(1e-6, float(logits.std()))
    design = np.stack([(logits - middle) / spread, np.ones_like(logits)], axis=1)

    def loss(weights: FloatArray) -> float:
        z = design @ weights
        return float((np.logaddexp(0.0, z) - targets * z).sum())

    weights = np.array([1.0, logit(positives / len(truth))])
    for _ in range(ITERATIONS):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - targets)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step, before = np.linalg.solve(hessian, gradient), loss(weights)
        size = 1.0
        while loss(weights - size * step) > before and size > 1e-9:
            size /= 2
        weights = weights - size * step
        if float(np.abs(size * step).max()) < 1e-10:
            break
    scale = max(SMALLEST, float(weights[0]) / spread)
    return Scaling(scale, float(weights[1]) - scale * middle)


def area_under_curve(scores: FloatArray, truth: Truth) -> float:
    """Share of the pairs of a success and a failure whose scores are in the right order; ties count half."""
    good, bad = scores[truth], np.sort(scores[~truth])
    below = np.searchsorted(bad, good, side="left")
    upto = np.searchsorted(bad, good, side="right")
    return float((below + upto).sum() / (2 * len(good) * len(bad)))


@dataclass(frozen=True)
class Bin:
    """Pictures whose probability lies in one part of [0, 1]."""

    count: int
    said: float
    """Mean of their probabilities."""
    found: float
    """Share of successes among them."""


def reliability(probabilities: FloatArray, truth: Truth) -> list[Bin]:
    """The bins that hold pictures, from low to high."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    masks = [numbers == number for number in range(BINS)]
    return [
        Bin(int(m.sum()), float(probabilities[m].mean()), float(truth[m].mean())) for m in masks if m.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: what was said minus what was found, weighted by the pictures."""
    return sum(b.count * abs(b.said - b.found) for b in bins) / sum(b.count for b in bins)


@dataclass(frozen=True)
class Row:
    """What a threshold gives."""

    threshold: float
    precision: float
    """nan where nothing reaches the threshold"""
    recall: float
    false_alarms: float
    """an episode"""


def row(probabilities: FloatArray, truth: Truth, threshold: float, episodes: int) -> Row:
    """What a threshold gives on pictures of so many episodes."""
    fired = probabilities >= threshold
    hits, alarms = int((fired & truth).sum()), int((fired & ~truth).sum())
    precision = hits / (hits + alarms) if hits + alarms else float("nan")
    return Row(threshold, precision, hits / max(1, int(truth.sum())), alarms / episodes)


def choose_threshold(probabilities: FloatArray, truth: Truth, wanted: float) -> float:
    """The threshold with the most successes found, of those with the wanted precision.

    It lies halfway, in logits, between the last picture that it takes in and the next.

    Raises:
        UnreachableError: there is none.
    """
    order = np.argsort(-probabilities, kind="stable")
    sorted_p = probabilities[order]
    hits = np.cumsum(truth[order])
    precision = hits / np.arange(1, len(order) + 1)
    # A threshold cannot part equal probabilities.
    ends = np.append(sorted_p[:-1] > sorted_p[1:], True)
    good = np.flatnonzero(ends & (precision >= wanted))
    if not len(good):
        best = float(precision[ends].max())
        raise UnreachableError(
            f"precision: {wanted:g} is wanted, the best that a threshold gives on {len(truth)} pictures with "
            f"{int(truth.sum())} successes is {best:.3f}"
        )
    last = int(good[hits[good].argmax()])  # the first of those: no false alarm that finds nothing more
    below = float(sorted_p[last + 1]) if last + 1 < len(sorted_p) else 0.0
    return float(sigmoid(np.array((logit(float(sorted_p[last])) + logit(below)) / 2)))
