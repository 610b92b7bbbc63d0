"""From labelled episodes to a classifier: train, calibrate, choose the threshold, measure on what was not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softflow_learner.success.calibration import (
    SHOWN,
    Bin,
    Row,
    area_under_curve,
    calibration_error,
    choose_threshold,
    fit_scaling,
    reliability,
    row,
)
from softflow_learner.success.data import Episode, Labelling, Pictures, PicturesError, gather, split
from softflow_learner.success.training import Progress, TrainSettings, train
from softflow_policy.success.file import Classifier, ClassifierInfo
from softflow_policy.success.model import SuccessSpec


@dataclass(frozen=True)
class Report:
    """How well a classifier does on pictures of the episodes held out for the test."""

    auc: float
    bins: list[Bin]
    rows: list[Row]
    chosen: Row
    parts: tuple[Pictures, Pictures, Pictures]
    """Trained, calibrated and tested on."""

    @property
    def calibration_error(self) -> float:
        """Expected."""
        return calibration_error(self.bins)


def make_classifier(
    spec: SuccessSpec,
    episodes: Sequence[Episode],
    labelling: Labelling,
    settings: TrainSettings,
    *,
    precision: float,
    held_out: float,
    progress: Progress = lambda *_: None,
) -> tuple[Classifier, Report]:
    """Train on some episodes, calibrate and choose the threshold on others, measure on the rest.

    Args:
        spec: of the network.
        episodes: all alike.
        labelling: which pictures show a success.
        settings: of the training.
        precision: that the threshold must have on the calibration's pictures.
        held_out: share of the episodes, half for calibration, half for the test.
        progress: is told of each update.

    Raises:
        PicturesError: too few successes, or numbers out of bounds.
        UnreachableError: no threshold has that precision.
    """
    if not 0.0 < precision <= 1.0:
        raise PicturesError(f"precision is {precision:g}, must be in (0, 1]")
    training, calibration, test = (
        gather(part, labelling) for part in split(episodes, held_out, settings.seed)
    )
    net = train(spec, training, settings, progress)
    logits = net.judge(calibration.thumbnails)
    scaling = fit_scaling(logits, calibration.truth)
    threshold = choose_threshold(scaling(logits), calibration.truth, precision)
    probabilities = scaling(net.judge(test.thumbnails))
    bins = reliability(probabilities, test.truth)
    rows = [row(probabilities, test.truth, t, test.episodes) for t in SHOWN]
    chosen = row(probabilities, test.truth, threshold, test.episodes)
    report = Report(
        area_under_curve(probabilities, test.truth), bins, rows, chosen, (training, calibration, test)
    )
    sizes = [episodes[0].sizes[camera] for camera in spec.camera_names]
    info = ClassifierInfo(
        layout_hash=episodes[0].data.layout_hash,
        heights=tuple(height for height, _ in sizes),
        widths=tuple(width for _, width in sizes),
        success_reward=labelling.success_reward,
        scale=scaling.scale,
        bias=scaling.bias,
        threshold=threshold,
        precision_wanted=precision,
        precision=float(np.nan_to_num(chosen.precision)),
        recall=chosen.recall,
        calibration_error=report.calibration_error,
        seed=settings.seed,
    )
    return Classifier(net, info), report
