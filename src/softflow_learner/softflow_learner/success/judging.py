"""What a classifier finds in episodes, how that agrees with their rewards, and the rewards that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from softflow_learner.success.data import (
    CLASSIFIER,
    Episode,
    PicturesError,
    bags_below,
    check_kind,
    read_pictures,
)
from softflow_node.pictures import encode_png
from softflow_policy.success.file import Classifier
from softflow_recorder.bag import BagError
from softflow_recorder.episode import HUMAN
from softflow_recorder.labelling import label_bag
from softflow_recorder.labels import Label, read_labels

TILE = 128
"""[pixels] side of a picture on the sheet."""
COLUMNS = 8
"""Pictures beside each other on the sheet."""
LIGHT = (255, 255, 255)


@dataclass(frozen=True)
class Verdict:
    """What a classifier finds in an episode."""

    episode: Episode
    probabilities: NDArray[np.float64]
    """(n,) that the picture after each step shows a success"""
    found: int | None
    """The first step whose picture reaches the threshold."""

    @property
    def compared(self) -> bool:
        """Whether others than a classifier have judged the episode."""
        return self.episode.source != CLASSIFIER

    @property
    def agrees(self) -> bool:
        """With the rewards that others gave, about whether the episode succeeded."""
        return self.compared and (self.found is None) == (self.episode.success is None)

    @property
    def shown(self) -> int:
        """The step to look at: the one found, or the likeliest."""
        return int(self.probabilities.argmax()) if self.found is None else self.found

    def line(self) -> str:
        """In words."""
        p = self.probabilities[self.shown]
        ours = f"no success (at most {p:.3f})" if self.found is None else f"step {self.found} ({p:.3f})"
        known = self.episode
        if not self.compared:
            return f"{known.path.name}: {ours}; its rewards: a classifier's"
        theirs = "no success" if known.success is None else f"step {known.success}"
        verdict = "agrees" if self.agrees else "FALSE ALARM" if known.success is None else "MISSED"
        return f"{known.path.name}: {ours}; its rewards: {theirs} ({known.source}): {verdict}"


def judge(classifier: Classifier, episode: Episode) -> Verdict:
    """Judge an episode. Raises PicturesError: another task, another size of pictures."""
    check_kind(episode, classifier.info.layout_hash, classifier.sizes)
    probabilities = classifier.probabilities(episode.thumbnails)[1:]
    above = np.flatnonzero(probabilities >= classifier.info.threshold)
    return Verdict(episode, probabilities, int(above[0]) if len(above) else None)


def judge_bags(classifier: Classifier, directories: Sequence[Path]) -> tuple[list[Verdict], list[str]]:
    """Judge all bags below the directories; and a line for each refused bag. Raises PicturesError."""
    spec, found, refused = classifier.net.spec, [], []
    for path in bags_below(directories):
        try:
            reward = classifier.info.success_reward
            found.append(judge(classifier, read_pictures(path, spec.camera_names, spec.image_size, reward)))
        except (BagError, PicturesError) as error:
            refused.append(str(error))
    return found, refused


def write_rewards(verdict: Verdict, success_reward: float) -> list[Label]:
    """Append rewards to the bag where those in it say otherwise; what a human has rewarded is left alone.

    A success that nobody has rewarded gets `success_reward`; one that was rewarded and is none gets 0. Rewards that
    say nothing of success stay whose they are. What is there already is not written again.

    Raises:
        BagError, LabelError, OSError: the bag's labels cannot be read or written.
    """
    path, data = verdict.episode.path, verdict.episode.data
    values, sources = data.rewards.copy(), list(data.reward_sources)
    for label in read_labels(path):
        for step, value in enumerate(label.values, label.start):
            if step < data.steps:
                values[step], sources[step] = value, label.source
    if HUMAN in sources:
        return []
    claims = np.flatnonzero(values >= np.float32(success_reward)).tolist()
    wrong, missing = claims, []
    if verdict.found is not None:
        if any(sources[step] != CLASSIFIER for step in claims):
            return []
        wrong = [step for step in claims if step != verdict.found]
        missing = [] if verdict.found in claims else [verdict.found]
    sure = 1.0 - verdict.probabilities
    if verdict.found is not None:
        sure[:] = verdict.probabilities[verdict.found]
    return [
        label_bag(path, step, [value], CLASSIFIER, float(sure[step]))
        for steps, value in ((missing, success_reward), (wrong, 0.0))
        for step in steps
    ]


def sheet(verdicts: Sequence[Verdict]) -> bytes:
    """PNG file: of each episode the picture that was found, or the likeliest; green where the rewards agree."""
    tiles = [_tile(verdict) for verdict in verdicts]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS if len(tiles) > COLUMNS else 0)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    return encode_png(np.vstack(rows))


def _tile(verdict: Verdict) -> NDArray[np.uint8]:
    """Cameras one above the other."""
    step = verdict.shown
    pictures = [
        cv2.resize(small[step + 1], (TILE, TILE), interpolation=cv2.INTER_NEAREST)
        for small in verdict.episode.thumbnails.values()
    ]
    tile = np.vstack(pictures)
    text = f"{'+' if verdict.found is not None else '-'} {verdict.probabilities[step]:.2f}"
    cv2.putText(tile, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, LIGHT, 1, cv2.LINE_AA)
    cv2.putText(tile, verdict.episode.path.name[-12:], (6, TILE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, LIGHT, 1)
    colour = LIGHT if not verdict.compared else (0, 200, 0) if verdict.agrees else (230, 0, 0)
    cv2.rectangle(tile, (0, 0), (tile.shape[1] - 1, tile.shape[0] - 1), colour, 3)
    return np.asarray(tile, dtype=np.uint8)
