"""The newest pictures of each camera, from which an observation takes those that it names. Plain Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from softflow_node.pictures import Data, FrameError, RGBImage, Sizes, check_format, decode, thumbnail
from softflow_node.topics import camera_names, split_reference

DEPTH = 30
"""Pictures of a camera that are kept: one second at 30 Hz."""


class Sight:
    """Compressed pictures by topic and stamp, decoded when they are asked for."""

    def __init__(self, topics: Sequence[str], sizes: Mapping[str, tuple[int, int]] | None = None) -> None:
        """`topics` in full, as observations name them; `sizes` that pictures must have, where it matters."""
        self._cameras = camera_names(topics)
        self._sizes: Sizes = dict(sizes or {})
        self._kept: dict[str, OrderedDict[int, Data]] = {topic: OrderedDict() for topic in topics}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras behind the topics."""
        return tuple(self._cameras.values())

    def add(self, topic: str, stamp: int, form: str, data: Data) -> None:
        """A picture of `stamp` [ns]. Raises FrameError for a format that is not one of RGB files."""
        check_format(form)
        kept = self._kept[topic]
        kept[stamp] = data
        while len(kept) > DEPTH:
            kept.popitem(last=False)

    def look(
        self, references: Sequence[str], cameras: Sequence[str], size: int
    ) -> dict[str, RGBImage] | None:
        """Camera -> thumbnail of side `size` of the pictures that an observation names; None while one is not here yet.

        Raises:
            FrameError: a camera of which it names none, a picture that cannot be decoded, or one of another size.
        """
        named = {
            self._cameras.get(topic, ""): (topic, stamp) for topic, stamp in map(split_reference, references)
        }
        for camera in cameras:
            if camera not in named:
                raise FrameError(f"images names no picture of camera {camera!r}: {list(references)}")
        found = {camera: self._kept[named[camera][0]].get(named[camera][1]) for camera in cameras}
        if None in found.values():
            return None
        return {name: self._small(name, data, size) for name, data in found.items() if data is not None}

    def _small(self, camera: str, data: Data, size: int) -> RGBImage:
        picture = decode(data)
        height, width = picture.shape[:2]
        wanted = self._sizes.get(camera, (height, width))
        if (height, width) != wanted:
            raise FrameError(
                f"picture of camera {camera!r} is {width}x{height}, must be {wanted[1]}x{wanted[0]}"
            )
        return thumbnail(picture, size)
