"""Pictures between camera, wire, bag, training and policy: RGB everywhere, encoded and decoded in one place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RGBImage = NDArray[np.uint8]
"""(H, W, 3), red first. What OpenCV decodes or captures lies in memory blue first, and is looked at backwards."""
Data = bytes | memoryview
"""A file's bytes, or a message's where they are."""
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
    ok, data = cv2.imencode(".jpg", _as_bgr(image), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise FrameError(f"image of shape {image.shape} could not be encoded as JPEG")
    return data.tobytes()


def from_bgr(image: NDArray[np.uint8]) -> RGBImage:
    """An image (H, W, 3) of OpenCV's, seen as RGB."""
    return image[..., ::-1]


def _as_bgr(image: RGBImage) -> NDArray[np.uint8]:
    """In OpenCV's order; a copy unless that is how it lies in memory."""
    seen = image[..., ::-1]
    return seen if seen.flags.c_contiguous else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)


def encode_png(image: RGBImage) -> bytes:
    """PNG file of an RGB image: what is decoded is what was encoded."""
    ok, data = cv2.imencode(".png", _as_bgr(image))
    if not ok:
        raise FrameError(f"image of shape {image.shape} could not be encoded as PNG")
    return data.tobytes()


def decode(data: Data) -> RGBImage:
    """RGB image of a JPEG or PNG file. Raises FrameError."""
    return from_bgr(_decoded(data, cv2.IMREAD_COLOR))


def decode_grey(data: Data) -> NDArray[np.uint8]:
    """Brightness (H, W) of a JPEG or PNG file. Raises FrameError."""
    return _decoded(data, cv2.IMREAD_GRAYSCALE)


def _decoded(data: Data, flags: int) -> NDArray[np.uint8]:
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
    if image.shape[:2] != (size, size):
        image = from_bgr(np.asarray(cv2.resize(_as_bgr(image), (size, size), interpolation=cv2.INTER_AREA)))
    return np.ascontiguousarray(image)
