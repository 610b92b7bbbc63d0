"""Compressed images of the replay's steps: one camera's bytes one after the other, decoded when they are sampled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softflow_learner.segments import SegmentError
from softflow_node.pictures import FrameError, RGBImage, decode, encode_png, thumbnail

GENERATION = 64 * 2**20
"""[bytes] after which a new file is begun; space comes back by whole files."""
_SHIFT = 32
"""A position is (generation << _SHIFT) + offset."""
_HEADER = 4
"""[bytes] of an image's length before it."""


class Arena:
    """Bytes that are appended, read by position, and forgotten by generations."""

    def __init__(self, directory: Path | None, generation: int = GENERATION) -> None:
        """Without a `directory` they are in memory. `generation` [bytes] of one file."""
        self._directory, self._limit = directory, generation
        self._files: dict[int, _File | _Memory] = {}
        self._users: dict[int, int] = {}
        self._newest = -1

    def append(self, items: Sequence[bytes]) -> NDArray[np.int64]:
        """Positions of the items. Raises OSError: no room on the disk; nothing refers to what was written then."""
        positions = []
        waiting, start = bytearray(), 0
        for item in items:
            if self._newest < 0 or self._files[self._newest].size + len(waiting) >= self._limit:
                self._flush(waiting)
                self._begin()
            start = self._files[self._newest].size + len(waiting)
            positions.append((self._newest << _SHIFT) + start)
            waiting += len(item).to_bytes(_HEADER, "little") + item
        self._flush(waiting)
        return np.array(positions, np.int64)

    def _flush(self, waiting: bytearray) -> None:
        if waiting:
            self._files[self._newest].write(bytes(waiting))
            waiting.clear()

    def _begin(self) -> None:
        self._files[self._newest + 1] = _Memory() if self._directory is None else _File(self._directory)
        self._newest += 1

    def read(self, position: int) -> bytes:
        """The item at a position."""
        file, offset = self._files[position >> _SHIFT], position & ((1 << _SHIFT) - 1)
        return file.read(offset + _HEADER, int.from_bytes(file.read(offset, _HEADER), "little"))

    def use(self, positions: NDArray[np.int64]) -> None:
        """Somebody refers to these, as often as they come."""
        for generation, count in _counted(positions):
            self._users[generation] = self._users.get(generation, 0) + count
        for generation in list(self._files):
            self._drop_unused(generation)

    def forget(self, positions: NDArray[np.int64]) -> None:
        """Nobody refers to these any more, as often as they come."""
        for generation, count in _counted(positions):
            self._users[generation] -= count
            self._drop_unused(generation)

    def _drop_unused(self, generation: int) -> None:
        if generation != self._newest and not self._users.get(generation):
            self._users.pop(generation, None)
            self._files.pop(generation).close()

    @property
    def size(self) -> int:
        """[bytes] kept."""
        return sum(file.size for file in self._files.values())


def _counted(positions: NDArray[np.int64]) -> list[tuple[int, int]]:
    generations, counts = np.unique(positions >> _SHIFT, return_counts=True)
    return list(zip(generations.tolist(), counts.tolist(), strict=True))


class _Memory:
    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._data[offset : offset + count])

    def close(self) -> None:
        self._data = bytearray()


class _File:
    """Without a name: it goes with the process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by close()
        self.size = 0

    def write(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], self.size + done)
        self.size += done

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, offset)

    def close(self) -> None:
        self._file.close()


class Gallery:
    """The images of several cameras; each camera's have one size, set by its first."""

    def __init__(
        self,
        cameras: Sequence[str],
        directory: Path | None = None,
        generation: int = GENERATION,
        size: int = 0,
    ) -> None:
        """`size` [pixels]: kept are thumbnails of that side, without a further loss; 0 = the images as they come."""
        self.cameras, self._size = tuple(cameras), size
        self._arenas = [Arena(directory, generation) for _ in self.cameras]
        self._shapes: dict[str, tuple[int, ...]] = {}

    def prepare(self, images: Mapping[str, Sequence[bytes]] | None, count: int) -> dict[str, list[bytes]]:
        """What is to be kept of `count` images of each camera, which can be decoded. Raises SegmentError."""
        shapes, prepared = dict(self._shapes), {}
        for camera in self.cameras:
            if images is None or camera not in images:
                raise SegmentError(f"images has no camera {camera!r}, must have {', '.join(self.cameras)}")
            if len(images[camera]) != count:
                raise SegmentError(f"images[{camera!r}] has {len(images[camera])} images, must have {count}")
            prepared[camera] = [
                self._prepared(f"images[{camera!r}][{i}]", camera, data, shapes)
                for i, data in enumerate(images[camera])
            ]
        self._shapes = shapes
        return prepared

    def _prepared(self, name: str, camera: str, data: bytes, shapes: dict[str, tuple[int, ...]]) -> bytes:
        try:
            image = decode(data)
        except FrameError:
            raise SegmentError(f"{name} of {len(data)} bytes cannot be decoded") from None
        if self._size:
            image, data = thumbnail(image, self._size), b""
        if image.shape != shapes.setdefault(camera, image.shape):
            raise SegmentError(f"{name} has shape {image.shape}, must be {shapes[camera]}")
        return data or encode_png(image)

    def append(
        self, images: Mapping[str, Sequence[bytes]], previous: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Positions (n+1, cameras) of a segment's prepared images; its first is there if a segment went before."""
        columns = []
        for i, (camera, arena) in enumerate(zip(self.cameras, self._arenas, strict=True)):
            known = np.empty(0, np.int64) if previous is None else previous[i : i + 1]
            columns.append(np.concatenate([known, arena.append(images[camera][len(known) :])]))
        for arena, column in zip(self._arenas, columns, strict=True):
            arena.use(np.concatenate([column[:-1], column[1:]]))
        return np.stack(columns, axis=1)

    def forget(self, *positions: NDArray[np.int64]) -> None:
        """Of forgotten steps, (n, cameras) each."""
        for each in positions:
            for i, arena in enumerate(self._arenas):
                arena.forget(each[:, i])

    def decode(self, positions: NDArray[np.int64]) -> dict[str, RGBImage]:
        """Camera -> (B, H, W, 3) RGB of positions (B, cameras); each image is decoded once."""
        found = {}
        for i, (camera, arena) in enumerate(zip(self.cameras, self._arenas, strict=True)):
            wanted, inverse = np.unique(positions[:, i], return_inverse=True)
            images = np.empty((len(wanted), *self._shapes.get(camera, (0, 0, 3))), np.uint8)
            for row, position in enumerate(wanted.tolist()):
                images[row] = decode(arena.read(position))
            found[camera] = images[inverse]
        return found

    def read(self, positions: NDArray[np.int64]) -> dict[str, list[bytes]]:
        """Camera -> the compressed images at positions (n, cameras)."""
        arenas = zip(self.cameras, self._arenas, strict=True)
        return {camera: [a.read(p) for p in positions[:, i].tolist()] for i, (camera, a) in enumerate(arenas)}

    @property
    def size(self) -> int:
        """[bytes] kept, compressed."""
        return sum(arena.size for arena in self._arenas)
