"""The calibration as a picture."""

from __future__ import annotations

import io

import matplotlib

from softflow_learner.success.making import Report

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def calibration_png(title: str, report: Report) -> bytes:
    """PNG file: what was said against what was found, pictures in each bin, what each threshold gives."""
    figure, (curve, table) = plt.subplots(1, 2, figsize=(12, 5))
    curve.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    curve.plot([b.said for b in report.bins], [b.found for b in report.bins], marker="o")
    for b in report.bins:
        curve.annotate(
            str(b.count), (b.said, b.found), textcoords="offset points", xytext=(6, -10), fontsize=8
        )
    curve.set(
        xlabel="probability that was said", ylabel="share of successes (count: pictures)", aspect="equal"
    )
    curve.set_title(f"expected calibration error {report.calibration_error:.3f}, AUC {report.auc:.3f}")
    thresholds = [r.threshold for r in report.rows]
    table.plot(thresholds, [r.precision for r in report.rows], label="precision", marker=".")
    table.plot(thresholds, [r.recall for r in report.rows], label="recall", marker=".")
    table.plot(thresholds, [r.false_alarms for r in report.rows], label="false alarms an episode", marker=".")
    table.axvline(report.chosen.threshold, color="0.4", linestyle=":", label="chosen")
    table.set(xlabel="threshold", xlim=(0, 1), ylim=(0, None))
    table.legend()
    for axes in (curve, table):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
