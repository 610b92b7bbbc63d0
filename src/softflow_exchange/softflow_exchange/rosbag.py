"""Inputs of a mapping out of a rosbag2 (MCAP or sqlite3). Types come from the bag itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from softflow_exchange.fields import FieldError, FieldPath, numbers
from softflow_exchange.mapping import HEADER, Input, Mapping
from softflow_exchange.report import InputReport, SourceReport, convert, finish_series
from softflow_exchange.series import Recording


class SourceError(ValueError):
    """A bag or data set cannot be read, or has not what the mapping asks for; the text names what."""


@dataclass
class _Column:
    """What is collected for one input."""

    name: str
    spec: Input
    by_header: bool
    paths: list[FieldPath]
    names: FieldPath | None
    as_text: bool
    times: list[int] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, message: Any, received: int) -> None:
        stamp = received
        if self.by_header:
            stamp = _header_stamp(message)
            self.lags.append(received - stamp)
        try:
            values = [value for path in self.paths for value in path.of(message)]
            if self.names is not None:
                values = self._ordered(values, [str(name) for name in self.names.of(message)])
            row = values if self.as_text else numbers(values, ", ".join(self.spec.field))
        except FieldError as error:
            self.skipped[str(error)] += 1
            return
        self.times.append(stamp)
        self.rows.append(" ".join(map(str, row)) if self.as_text else row)

    def _ordered(self, values: list[Any], names: list[str]) -> list[Any]:
        if len(values) != len(names):
            raise FieldError(f"{self.spec.names!r} has {len(names)} names for {len(values)} values")
        table = dict(zip(names, values, strict=True))
        missing = [name for name in self.spec.order if name not in table]
        if missing:
            raise FieldError(f"{self.spec.names!r} lacks {missing[0]!r}; has {', '.join(names)}")
        return [table[name] for name in self.spec.order]


def _header_stamp(message: Any) -> int:
    """[ns]"""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def read_rosbag(path: Path, mapping: Mapping) -> tuple[Recording, SourceReport]:
    """The inputs of one bag, and what there is to say about them.

    Raises:
        SourceError: not a bag, damaged, or its types cannot be understood.
    """
    columns = {name: _column(name, mapping) for name in sorted({*mapping.gridded(), *mapping.events()})}
    report = SourceReport(str(path))
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            by_topic: dict[str, list[_Column]] = {}
            for column in columns.values():
                by_topic.setdefault(column.spec.topic, []).append(column)
            report.topics = [(c.topic, c.msgtype, c.msgcount) for c in reader.connections]
            wanted = [c for c in reader.connections if c.topic in by_topic]
            _check_stamps(reader, wanted, by_topic, mapping.path)
            # Without connections `messages` would give all there are.
            for connection, received, data in reader.messages(connections=wanted) if wanted else ():
                message = reader.deserialize(data, connection.msgtype)
                for column in by_topic[connection.topic]:
                    column.add(message, received)
    except SourceError:
        raise
    except Exception as error:  # rosbags has no common base for what damaged bytes can raise
        raise SourceError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    return _recording(path, columns, report), report


def _column(name: str, mapping: Mapping) -> _Column:
    spec = mapping.inputs[name]
    names = FieldPath.parse(spec.names) if spec.names else None
    as_text = mapping.episodes.by == "event" and name == mapping.episodes.input
    paths = [FieldPath.parse(text) for text in spec.field]
    return _Column(name, spec, mapping.time_of(name) == HEADER, paths, names, as_text)


def _check_stamps(
    reader: AnyReader, wanted: list[Any], by_topic: dict[str, list[_Column]], path: Path
) -> None:
    for connection in wanted:
        fields = [name for name, _ in reader.typestore.fielddefs[connection.msgtype][1]]
        for column in by_topic[connection.topic]:
            if column.by_header and "header" not in fields:
                raise SourceError(
                    f"{path}: inputs.{column.name}.time is 'header', but {connection.msgtype} of topic "
                    f"{connection.topic!r} has no header; allowed: receive"
                )


def _recording(path: Path, columns: dict[str, _Column], report: SourceReport) -> Recording:
    recording = Recording(str(path), {}, {})
    for name, column in columns.items():
        about = InputReport(name, f"{column.spec.topic} {', '.join(column.spec.field)}", column.spec)
        report.inputs.append(about)
        about.skipped = dict(column.skipped)
        if column.lags:
            about.lag = float(np.median(column.lags)) / 1e9
        if not column.rows:
            about.problem = (
                "no message that can be used" if column.skipped else "there is no such topic, or it is empty"
            )
            continue
        if column.as_text:
            order = np.argsort(column.times, kind="stable")
            times = np.array(column.times, dtype=np.int64)[order]
            recording.texts[name] = (times, [column.rows[i] for i in order])
            about.describe_times(times)
            continue
        sizes = {len(row) for row in column.rows}
        if len(sizes) > 1:
            about.problem = (
                f"messages have {', '.join(map(str, sorted(sizes)))} values, must always have as many"
            )
            continue
        times, values = finish_series(column.times, np.stack(column.rows), about)
        try:
            recording.series[name] = convert(times, values, about)
        except ValueError as error:
            about.problem = str(error)
    return recording
