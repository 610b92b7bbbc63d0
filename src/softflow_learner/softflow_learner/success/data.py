"""Episodes of bags as pictures that show a success, or do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softflow_node.pictures import FrameError, Sizes, decode, thumbnail
from softflow_policy.success.model import Thumbnails
from softflow_recorder.bag import BagError, episode_bags, read_episode, read_summary
from softflow_recorder.episode import HUMAN, EpisodeData

CLASSIFIER, EVENT = "classifier", "episode"
"""Sources beside `HUMAN`: of labels, and the success that the end of the episode announced."""


class PicturesError(ValueError):
    """Pictures or labels that cannot be used; the text names bag, value and bound."""


@dataclass(frozen=True)
class Labelling:
    """Which pictures show a success. Picture i+1 is what step i led to."""

    success_reward: float = 1.0
    """A step with this reward or more is a success."""
    hold: int = 1
    """Pictures, from the first success on, that show it; those after them are not used."""
    margin: int = 2
    """Pictures just before the first success that are not used: they look much like it."""

    def __post_init__(self) -> None:
        for name, low in (("hold", 1), ("margin", 0)):
            if getattr(self, name) < low:
                raise PicturesError(f"{name} is {getattr(self, name)}, must be at least {low}")


@dataclass(frozen=True)
class Episode:
    """One episode's pictures, small, and what is known of them."""

    path: Path
    data: EpisodeData
    """Without its pictures' bytes."""
    thumbnails: Thumbnails
    """Camera -> RGB (n+1, S, S, 3)."""
    sizes: Sizes
    success: int | None
    """The step that succeeded, by what others than a classifier have said."""
    source: str
    """Who said so; a classifier where nobody else has said anything."""

    def known(self, labelling: Labelling) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Pictures that are used, and whether each shows a success."""
        count = self.data.steps + 1
        if self.success is None:
            return np.arange(count), np.zeros(count, dtype=np.bool_)
        first = self.success + 1
        shown = np.arange(first, min(first + labelling.hold, count))
        before = np.arange(max(0, first - labelling.margin))
        return np.concatenate([before, shown]), np.arange(len(before) + len(shown)) >= len(before)


def first_success(data: EpisodeData, success_reward: float) -> tuple[int | None, str]:
    """The step that succeeded and who said so; what a classifier said does not count, or it would learn from itself.

    Without a reward that is high enough the end of an episode that was announced as a success is one, unless a
    human has given its last step another reward, or the classifier that judged while the robot ran announced it.
    """
    sources = data.reward_sources
    for step in np.flatnonzero(data.rewards >= success_reward).tolist():
        if sources[step] != CLASSIFIER:
            return step, sources[step]
    if set(sources) == {CLASSIFIER}:
        return None, CLASSIFIER
    if data.success and sources[-1] not in (HUMAN, CLASSIFIER):
        return data.steps - 1, EVENT
    return None, HUMAN if HUMAN in sources else EVENT


def read_pictures(path: Path, cameras: Sequence[str], size: int, success_reward: float) -> Episode:
    """One bag. Raises BagError, PicturesError."""
    summary = read_summary(path)
    recovered = summary is not None and summary.recovered
    data = read_episode(path, recovered=recovered, without=(CLASSIFIER,))
    thumbnails, sizes = {}, Sizes()
    for camera in cameras:
        if camera not in data.images:
            have = ", ".join(sorted(data.images)) or "none"
            raise PicturesError(f"{path}: has no camera {camera!r}, its cameras: {have}")
        thumbnails[camera], sizes[camera] = _small(path, camera, data.images[camera], size)
    data = replace(data, images={})
    return Episode(path, data, thumbnails, sizes, *first_success(data, success_reward))


def _small(
    path: Path, camera: str, images: Sequence[bytes], size: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Pictures (N, S, S, 3) of one camera, and the height and width that all of them have."""
    small, shape = [], (0, 0)
    for step, image in enumerate(images):
        try:
            picture = decode(image)
        except FrameError as error:
            raise PicturesError(f"{path}: picture {step} of {camera!r}: {error}") from error
        found = picture.shape[:2]
        shape = found if step == 0 else shape
        if found != shape:
            raise PicturesError(
                f"{path}: picture {step} of {camera!r} is {found[1]}x{found[0]}, those before {shape[1]}x{shape[0]}"
            )
        small.append(thumbnail(picture, size))
    return np.stack(small), (int(shape[0]), int(shape[1]))


def check_kind(episode: Episode, layout_hash: str, sizes: Sizes) -> None:
    """Whether an episode is of the same task and has pictures of the same sizes. Raises PicturesError."""
    if episode.data.layout_hash != layout_hash:
        raise PicturesError(
            f"{episode.path}: layout_hash is {episode.data.layout_hash!r}, must be {layout_hash!r}"
        )
    for camera, (height, width) in sizes.items():
        have = episode.sizes[camera]
        if have != (height, width):
            raise PicturesError(
                f"{episode.path}: pictures of {camera!r} are {have[1]}x{have[0]}, must be {width}x{height}"
            )


def load_episodes(
    directories: Sequence[Path], cameras: Sequence[str], size: int, success_reward: float
) -> tuple[list[Episode], list[str]]:
    """All bags below the directories, each episode once, all like the first; and a line for each refused bag.

    Raises:
        PicturesError: a directory does not exist, or none holds a bag that can be used.
    """
    found: list[Episode] = []
    refused: list[str] = []
    for path in bags_below(directories):
        try:
            episode = read_pictures(path, cameras, size, success_reward)
            if any(episode.data.episode_id == other.data.episode_id for other in found):
                raise PicturesError(f"{path}: episode {episode.data.episode_id!r} was in a bag before it")
            if episode.source == CLASSIFIER:
                raise PicturesError(
                    f"{path}: its rewards are a classifier's, must be another's to learn from (softflow bags label)"
                )
            if found:
                check_kind(episode, found[0].data.layout_hash, found[0].sizes)
            found.append(episode)
        except (BagError, PicturesError) as error:
            refused.append(str(error))
    if not found:
        why = f" ({refused[0]})" if refused else ""
        raise PicturesError(f"bags: {', '.join(map(str, directories))} hold no episode that can be used{why}")
    return found, refused


def bags_below(directories: Sequence[Path]) -> list[Path]:
    """Of all directories. Raises PicturesError for one that does not exist."""
    for directory in directories:
        if not directory.is_dir():
            raise PicturesError(f"bags: {str(directory)!r} is not a directory")
    return [path for directory in directories for path in episode_bags(directory)]


def split(
    episodes: Sequence[Episode], held_out: float, seed: int
) -> tuple[list[Episode], list[Episode], list[Episode]]:
    """To train, to calibrate, to test: whole episodes, successes and failures dealt out alike.

    Raises:
        PicturesError: too few successes for each of the three, or no share to hold out.
    """
    if not 0.0 < held_out < 1.0:
        raise PicturesError(f"held_out is {held_out:g}, must be in (0, 1)")
    parts: tuple[list[Episode], list[Episode], list[Episode]] = ([], [], [])
    rng = np.random.default_rng(seed)
    for succeeded in (True, False):
        group = [e for e in episodes if (e.success is not None) == succeeded]
        order = [group[i] for i in rng.permutation(len(group))]
        half = round(len(order) * held_out / 2)
        cuts = (order[2 * half :], order[:half], order[half : 2 * half])
        if succeeded and not all(cuts):
            raise PicturesError(
                f"bags: {len(group)} successful episodes, too few: with held_out {held_out:g} each of training, "
                f"calibration and test must have one ({', '.join(str(len(c)) for c in cuts)})"
            )
        for part, cut in zip(parts, cuts, strict=True):
            part += cut
    return parts


@dataclass(frozen=True)
class Pictures:
    """Pictures with their truth."""

    thumbnails: Thumbnails
    truth: NDArray[np.bool_]
    episodes: int

    @property
    def successes(self) -> int:
        """How many show one."""
        return int(self.truth.sum())


def gather(episodes: Sequence[Episode], labelling: Labelling) -> Pictures:
    """The pictures of episodes that are used."""
    chosen = [(episode, *episode.known(labelling)) for episode in episodes]
    thumbnails = {
        camera: np.concatenate([episode.thumbnails[camera][which] for episode, which, _ in chosen])
        for camera in episodes[0].thumbnails
    }
    return Pictures(thumbnails, np.concatenate([truth for *_, truth in chosen]), len(episodes))
