"""Pictures of what a calibration leaves over."""

from __future__ import annotations

import io

import matplotlib
import numpy as np

from softflow_perception.calibration.views import Views
from softflow_perception.rotations import FloatArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ARROW = 0.05
"""of the picture's width: the length of a long arrow, at the 95th of a hundred"""


def residual_png(title: str, views: Views, residuals: list[FloatArray], errors: FloatArray) -> bytes:
    """PNG file: where the points were seen and how they are off, all of them about zero, the error of each view.

    `residuals` [pixels] (N, 2) and `errors` [pixels] (V,) belong to `views.good`.
    """
    figure, (where, cloud, bars) = plt.subplots(1, 3, figsize=(16, 5), width_ratios=(1.6, 1, 1.4))
    pixels = np.concatenate([view.pixels for view in views.good])
    offs = np.concatenate(residuals)
    longest = max(1e-3, float(np.percentile(np.linalg.norm(offs, axis=1), 95)))
    factor = max(1, round(ARROW * views.width / longest))
    where.quiver(*pixels.T, *(factor * offs).T, angles="xy", scale_units="xy", scale=1, width=0.002)
    where.set(
        xlim=(0, views.width),
        ylim=(views.height, 0),
        aspect="equal",
        xlabel="x [pixels]",
        ylabel="y [pixels]",
    )
    where.set_title(f"seen minus projected, {factor} times as long")
    cloud.scatter(*offs.T, s=3)
    reach = max(0.2, 1.1 * float(np.abs(offs).max()))
    cloud.set(
        xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="x [pixels]", ylabel="y [pixels]"
    )
    cloud.grid(alpha=0.3)
    cloud.set_title(f"all {len(offs)} points")
    bars.barh([view.name for view in views.good], errors)
    bars.invert_yaxis()
    bars.tick_params(axis="y", labelsize=max(3, min(8, 220 / len(errors))))
    bars.set(xlabel="error [pixels], root mean square")
    figure.suptitle(title)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
