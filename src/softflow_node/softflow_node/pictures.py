"""Pictures between camera, wire, bag, training and policy: RGB everywhere, encoded and decoded in one place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RGBImage = NDArray[np.uint8]
"""(H, W, 3), red first."""
Sizes = dict[str, tuple[int, int]]
"""Camera -> height, width of its pictures [pixels]."""
FORMAT = "rgb8; jpeg compressed bgr8"
"""Of sensor_msgs/CompressedImage: the picture was rgb8; "bgr8" is how OpenCV's JPEG functions name their side."""


class FrameError(ValueError):
    """A picture that must not be used; the text names the field, its value and what it must be."""


def encode_jpeg(image: RGBImage, quality: int) -> bytes:
    """JPEG file of an RGB image; `quality` in [1, 100]. Raises FrameError for another shape or type."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise FrameError(f"image has shape {image.shape} and type {image.dtype}, must be (H, W, 3) uint8")
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not ok:
        raise FrameError(f"image of shape {image.shape} could not be encoded as JPEG")
    return bytes(data)


def encode_png(image: RGBImage) -> bytes:
    """PNG file of an RGB image: what is decoded is what was encoded."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise FrameError(f"image of shape {image.shape} could not be encoded as PNG")
    return bytes(data)


def decode(data: bytes) -> RGBImage:
    """RGB image of a JPEG or PNG file. Raises FrameError."""
    return np.asarray(cv2.cvtColor(_decoded(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_grey(data: bytes) -> NDArray[np.uint8]:
    """Brightness (H, W) of a JPEG or PNG file. Raises FrameError."""
    return _decoded(data, cv2.IMREAD_GRAYSCALE)


def _decoded(data: bytes, flags: int) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise FrameError(f"{len(data)} bytes are not a JPEG or PNG picture")
    return np.asarray(image, dtype=np.uint8)


def check_format(text: str) -> None:
    """Raises FrameError for the `format` of a CompressedImage that is not an RGB picture in a file we read."""
    original, _, rest = text.partition(";")
    if original.strip() not in ("rgb8", "bgr8", "mono8") or not rest.strip().startswith(("jpeg", "png")):
        raise FrameError(f"format is {text!r}, must be such as {FORMAT!r}")


def thumbnail(image: RGBImage, size: int) -> RGBImage:
    """The picture as networks see it: (size, size, 3), each pixel the mean of those it stands for.

    The whole field of view: a picture that is not square is squeezed.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
