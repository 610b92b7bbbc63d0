"""LeRobotDatasets v3: any through a mapping file, our own exports bit by bit as they were."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from softflow_exchange import lerobot_format as names
from softflow_exchange.episodes import Imported
from softflow_exchange.fields import FieldError, numbers
from softflow_exchange.lerobot_format import DatasetError, arrow, read_info
from softflow_exchange.mapping import Input, Mapping
from softflow_exchange.report import InputReport, SourceReport, convert
from softflow_exchange.series import Recording, Times
from softflow_recorder.episode import EpisodeData
from softflow_tasks.task import Task, make_task

PICTURES = ("image", "video")
"""dtypes that are no numbers."""


class Dataset:
    """Columns of a data set, by episode. Raises DatasetError."""

    def __init__(self, root: Path) -> None:
        self.info = read_info(root)
        self.root = root
        self.files = sorted((root / "data").glob("*/*.parquet"))
        if not self.files:
            raise DatasetError(f"{root / 'data'}: holds no Parquet file")

    def episodes(self, features: list[str]) -> Iterator[tuple[int, dict[str, list[Any]]]]:
        """(episode_index, feature -> rows in the order of frames), one file in memory at a time."""
        wanted = [*dict.fromkeys([*features, "episode_index", "frame_index", "index"])]
        rest: Any = None
        for file in self.files:
            table = self.read(file, wanted)
            table = table if rest is None else arrow().concat_tables([rest, table])
            index = table.column("episode_index").to_numpy()
            # The last episode of a file may go on in the next.
            borders = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist()]
            for a, b in itertools.pairwise(borders):
                yield self._rows(table.slice(a, b - a))
            rest = table.slice(borders[-1])
        if rest is not None and len(rest):
            yield self._rows(rest)

    def read(self, file: Path, wanted: list[str] | None = None) -> Any:
        """A table of one file; all columns unless some are wanted. Raises DatasetError."""
        try:
            return arrow("pyarrow.parquet").read_table(file, columns=wanted).replace_schema_metadata(None)
        except DatasetError:
            raise
        except Exception as error:  # pyarrow has its own tree, and an old file can raise any of it
            raise DatasetError(f"{file}: cannot be read: {type(error).__name__}: {error}") from error

    @staticmethod
    def _rows(table: Any) -> tuple[int, dict[str, list[Any]]]:
        rows = table.to_pydict()
        frames = np.array(rows["frame_index"])
        if not (np.diff(frames) == 1).all():
            raise DatasetError(f"episode {rows['episode_index'][0]}: frame_index does not count up by one")
        return int(rows["episode_index"][0]), rows

    @property
    def cameras(self) -> list[str]:
        """Features that are images of ours."""
        return [name for name in self.info.features if name.startswith(names.IMAGES)]

    @cached_property
    def ours(self) -> dict[str, Any] | None:
        """What we wrote beside it; None in a data set that others made."""
        path = self.root / names.OURS
        if not path.is_file():
            return None
        try:
            content = dict(json.loads(path.read_text()))
            if content["format"] != names.OUR_FORMAT:
                raise DatasetError(f"{path}: format is {content['format']!r}, must be {names.OUR_FORMAT!r}")
            return content
        except (KeyError, TypeError, ValueError) as error:
            raise error if isinstance(error, DatasetError) else DatasetError(f"{path}: {error}") from error


def read_recordings(dataset: Dataset, mapping: Mapping) -> Iterator[tuple[Recording | None, SourceReport]]:
    """Each episode as a recording of its inputs."""
    inputs = {name: mapping.inputs[name] for name in sorted({*mapping.gridded(), *mapping.events()})}
    info = dataset.info
    there = [name for name, about in info.features.items() if about.get("dtype") not in PICTURES]
    wanted = sorted({spec.feature for spec in inputs.values() if spec.feature in there})
    for count, (index, rows) in enumerate(dataset.episodes(wanted)):
        report = SourceReport(f"{dataset.root} episode {index}", brief=count > 0)
        report.topics = [
            (n, f"{a.get('dtype')} {a.get('shape')}", len(rows["frame_index"]))
            for n, a in info.features.items()
        ]
        recording = Recording(report.origin, {}, {})
        for name, spec in inputs.items():
            _add_input(recording, report, name, spec, rows, dataset)
        if not report.brief:
            report.notes.append("there is no state after the last action: the last one is repeated")
        yield recording, report


def _add_input(
    recording: Recording,
    report: SourceReport,
    name: str,
    spec: Input,
    rows: dict[str, list[Any]],
    dataset: Dataset,
) -> None:
    about = InputReport(name, spec.feature, spec)
    report.inputs.append(about)
    if spec.feature not in rows:
        kind = dataset.info.features.get(spec.feature, {}).get("dtype")
        about.problem = f"is {kind}, which is no number" if kind else "there is no such feature"
        return
    times = _stamps(rows, dataset.info.fps)
    values = rows[spec.feature]
    if spec.feature.startswith(names.NEXT):
        times = times[1:]  # What an action leads to is known one frame later.
    else:
        values = [*values, values[-1]]
    if isinstance(values[0], str):
        recording.texts[name] = (times, values)
        about.describe_times(times)
        return
    try:
        table = np.stack([numbers(row if isinstance(row, list) else [row], spec.feature) for row in values])
        about.describe_times(times)
        recording.series[name] = convert(times, _ordered(table, spec, dataset), about)
    except (FieldError, ValueError) as error:
        about.problem = str(error)


def _stamps(rows: dict[str, list[Any]], fps: float) -> Times:
    """Times of the frames and of the state after the last, (n+1,) [ns]: as if one episode had followed the other.

    Counted, as `timestamp` is float32 and begins anew in each episode.
    """
    first = rows["index"][0] + rows["episode_index"][0]
    frames = np.arange(first, first + len(rows["index"]) + 1)
    return np.round(frames * (1e9 / fps)).astype(np.int64)


def _ordered(table: np.ndarray, spec: Input, dataset: Dataset) -> np.ndarray:
    """Columns in the order that the mapping names. Raises ValueError."""
    if not spec.order:
        return table
    known = dataset.info.names(spec.feature)
    missing = [name for name in spec.order if name not in known]
    if missing:
        raise ValueError(
            f"feature {spec.feature!r} has no {missing[0]!r}; has {', '.join(known) or 'no names'}"
        )
    return table[:, [known.index(name) for name in spec.order]]


def read_ours(dataset: Dataset, images: bool = True) -> Iterator[Imported]:
    """Episodes of a data set that `to-lerobot` wrote, as they were; with their images or without.

    Raises:
        DatasetError: others made it, or it was changed since.
    """
    ours = dataset.ours
    if ours is None:
        raise DatasetError(
            f"{dataset.root / names.OURS}: is missing: not of our making, so it needs --mapping"
        )
    try:
        task = make_task(ours["task"])
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{dataset.root / names.OURS}: {error}") from error
    layout = ours.get("layout_hash")
    if layout != task.layout.hash:
        raise DatasetError(
            f"{dataset.root / names.OURS}: layout_hash is {layout!r}, {task.id} has {task.layout.hash!r}"
        )
    extra = {row["episode_index"]: row for row in dataset.read(dataset.root / names.OUR_EPISODES).to_pylist()}
    cameras = dataset.cameras if images else []
    columns = [names.STATE, names.ACTION, names.REWARD, names.INTERVENTION, names.POLICY_VERSION, *cameras]
    for index, rows in dataset.episodes(columns):
        if index not in extra:
            raise DatasetError(f"{dataset.root / names.OUR_EPISODES}: lacks episode {index}")
        origin = f"{dataset.root} episode {index}"
        try:
            yield Imported(
                _episode(rows, extra[index], task, cameras), _stamps(rows, dataset.info.fps), origin
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{origin}: {type(error).__name__}: {error}") from error


def _episode(
    rows: dict[str, list[Any]], extra: dict[str, Any], task: Task, cameras: list[str]
) -> EpisodeData:
    def images(camera: str) -> tuple[bytes, ...]:
        last = extra[f"last_image/{camera.removeprefix(names.IMAGES)}"]
        return (*(image["bytes"] for image in rows[camera]), last)

    return EpisodeData(
        episode_id=extra["episode_id"],
        index=extra["index"],
        task=task.id,
        layout_hash=task.layout.hash,
        mode=extra["mode"],
        source=extra["source"],
        seed=int(extra["seed"]),
        states=np.array([*rows[names.STATE], extra["last_state"]], dtype=np.float32),
        actions=np.array(rows[names.ACTION], dtype=np.float32),
        rewards=np.array(rows[names.REWARD], dtype=np.float32),
        policy_versions=np.array(rows[names.POLICY_VERSION], dtype=np.uint64),
        terminated=extra["terminated"],
        truncated=not extra["terminated"],
        cause=extra["cause"],
        success=extra["success"],
        metrics=json.loads(extra["metrics"]),
        interventions=np.array(rows[names.INTERVENTION], dtype=np.bool_),
        images={camera.removeprefix(names.IMAGES): images(camera) for camera in cameras},
        reward_sources=tuple(extra.get("reward_sources") or ()),  # data sets of before do not say
    )
