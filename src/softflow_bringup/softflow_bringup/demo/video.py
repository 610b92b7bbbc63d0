"""The hand before and after, drawn from recorded episodes.

Lock step is deterministic: start state and applied actions of a bag, played into the same scene, give the same
motion, and this is checked state by state.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from softflow_recorder.bag import read_episode
from softflow_sim.catalogue import make_scene
from softflow_tasks.task import HandSample, Objects, ObjectSample, Task

SIZE = (320, 240)
FRAMES_PER_SECOND = 10


class VideoError(RuntimeError):
    """No picture can be made; the text says why and what to install."""


def of_the_hand(task: Task, hand: HandSample, objects: Objects) -> NDArray[np.bool_]:
    """Entries of the state (S,) that objects have no part in: they stay when all objects are moved."""
    moved = {}
    for name, o in objects.items():
        turned = o.quaternion + (0.3, 0.2, -0.1, 0.4)
        turned /= np.linalg.norm(turned)
        moved[name] = ObjectSample(o.position + 0.01, turned, o.linear + 0.1, o.angular + 0.1)
    same: NDArray[np.bool_] = task.observe(hand, objects) == task.observe(hand, moved)
    return same


def replay(bag: Path, seconds: float, by_sight: bool = False) -> list[NDArray[np.uint8]]:
    """Frames (240, 320, 3) of the first `seconds` of an episode; `by_sight`: objects in its states were seen.

    What was seen is not exactly where things are, so only the hand's part is compared then.

    Raises:
        VideoError: no renderer, or the replay leaves the recorded motion.
    """
    episode = read_episode(bag)
    scene = make_scene(episode.task)
    task = scene.task
    every = round(task.control_hz / FRAMES_PER_SECOND)
    scene.reset(episode.seed)
    frames = []
    try:
        for step in range(min(episode.steps, round(seconds * task.control_hz))):
            hand, objects = scene.hand(), scene.objects()
            differs = task.observe(hand, objects) != episode.states[step]
            if by_sight:
                differs &= of_the_hand(task, hand, objects)
            if differs.any():
                raise VideoError(f"{bag}: replay differs from the recording at step {step}")
            if step % every == 0:
                frames.append(scene.render(*SIZE).copy())
            scene.advance(episode.actions[step].astype(np.float64))
    except VideoError:
        raise
    except Exception as error:  # the renderer's own errors have no common base
        hint = "software rendering needs the Debian packages libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"
        raise VideoError(f"cannot render ({type(error).__name__}: {error}); {hint}") from error
    finally:
        scene.close()
    return frames


def before_after(
    path: Path,
    before: Path,
    after: Path,
    captions: tuple[str, str],
    seconds: float = 10.0,
    by_sight: bool = False,
) -> None:
    """Write a GIF with two episodes side by side. Raises VideoError."""
    left, right = (replay(bag, seconds, by_sight) for bag in (before, after))
    pictures = []
    for i in range(max(len(left), len(right))):
        # An episode that ended early stays on its last frame.
        pair = [left[min(i, len(left) - 1)], right[min(i, len(right) - 1)]]
        picture = Image.fromarray(np.concatenate(pair, axis=1))
        draw = ImageDraw.Draw(picture)
        for x, caption in zip((8, SIZE[0] + 8), captions, strict=True):
            draw.text((x, 6), caption, fill=(255, 255, 255))
        pictures.append(picture.quantize(64))
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=round(1000 / FRAMES_PER_SECOND), loop=0
    )
