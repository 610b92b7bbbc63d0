"""Where pictures come from: a V4L2 device, or a recorded video in its place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from softflow_node.pictures import RGBImage, from_bgr


class SourceError(OSError):
    """A source that cannot be opened or has ended; the text names it."""


class CaptureSource:
    """OpenCV's capture of a device ("/dev/video0", or its number) or of a video file."""

    def __init__(self, device: str, width: int, height: int, rate: float) -> None:
        """Raises SourceError when it cannot be opened or gives another size than asked for."""
        self.device, self.recorded = device, Path(device).is_file()
        # The file's own size and rate hold; a device must be told.
        self._capture = cv2.VideoCapture(int(device) if device.isdigit() else device)
        if not self._capture.isOpened():
            raise SourceError(f"device: {device!r} cannot be opened as a camera or video")
        if not self.recorded:
            # Old pictures in a buffer would be late ones.
            for prop, value in (
                (cv2.CAP_PROP_BUFFERSIZE, 1),
                (cv2.CAP_PROP_FRAME_WIDTH, width),
                (cv2.CAP_PROP_FRAME_HEIGHT, height),
                (cv2.CAP_PROP_FPS, rate),
            ):
                self._capture.set(prop, value)
        size = tuple(int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if size != (width, height):
            self.close()
            raise SourceError(f"device: {device!r} gives {size[0]}x{size[1]}, asked for {width}x{height}")

    def read(self) -> RGBImage:
        """The next picture; waits for it. Raises SourceError when there is none: unplugged, or the file's end."""
        ok, image = self._capture.read()
        if not ok or image is None:
            raise SourceError(
                f"device: {self.device!r} gave no picture: {'its end' if self.recorded else 'unplugged?'}"
            )
        return from_bgr(np.asarray(image, dtype=np.uint8))

    def close(self) -> None:
        """Free the device."""
        self._capture.release()
