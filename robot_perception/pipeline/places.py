"""Recordings of places with the truth about them, to evaluate and calibrate revisits on."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.revisit.choice import KeyframeChooser
from robot_perception.core.revisit.evaluate import Place
from robot_perception.core.types import ImageFrame, Odometry
from robot_perception.pipeline.odometry import OdometryBuffer
from robot_perception.pipeline.sources import Progress, Recording, RecordingError, open_recording

_TRUTH = "ground_truth*.npy"
_MAX_TRUTH_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Walks:
    """Two walks of one way; `positives[i]` are the right references of query i."""

    queries: Recording
    references: Recording
    positives: list[set[int]]


def open_walks(path: Path) -> Walks | None:
    """The walks in a folder with `query`, `ref` and `ground_truth*.npy`, as the VPR-Bench data sets
    have them; None for what is no such folder. Raises RecordingError where the truth is damaged."""
    truths = sorted(path.glob(_TRUTH)) if path.is_dir() else []
    if not truths or not (path / "query").is_dir() or not (path / "ref").is_dir():
        return None
    positives = _read_truth(truths[-1])
    return Walks(open_recording(path / "query"), open_recording(path / "ref"), positives)


def images(recording: Recording, progress: Progress | None = None) -> Iterator[ImageFrame]:
    """The images of a recording; raises RecordingError where one cannot be read, as the numbers of
    those after it would no longer be those of the truth."""
    if "image" not in recording.roles:
        raise RecordingError(f"{recording.path} has no images")
    for item in recording.frames({"image": recording.roles["image"]}, progress):
        if not isinstance(item.frame, ImageFrame):
            raise RecordingError(f"an image in {recording.path} cannot be read: {item.rejected}")
        yield item.frame


def places(
    recording: Recording, config: RevisitConfig, progress: Progress | None = None
) -> Iterator[Place]:
    """The keyframes that the detector would choose, with the odometry's pose as the truth.

    Raises RecordingError for a recording without images or without odometry.
    """
    for role, name in (("image", "images"), ("odom", "odometry or poses")):
        if role not in recording.roles:
            raise RecordingError(f"{recording.path} has no {name}")
    odometry, chooser = OdometryBuffer(), KeyframeChooser(config)
    wanted = {role: recording.roles[role] for role in ("odom", "image")}
    for item in recording.frames(wanted, progress):
        if isinstance(item.frame, Odometry):
            try:
                odometry.add(item.frame)
            except InputRejected:
                continue
        elif isinstance(item.frame, ImageFrame):
            pose = odometry.at(item.frame.stamp_ns)
            if pose is not None and chooser.step(item.frame, pose.pose):
                yield Place(item.frame, pose.pose)


class _ArraysOnly(pickle.Unpickler):
    """Makes arrays and lists, and nothing else: a pickle could otherwise run anything."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype"}
        if module_name.partition(".")[0] != "numpy" or global_name not in allowed:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no array")
        return super().find_class(module_name, global_name)


def _read_truth(path: Path) -> list[set[int]]:
    """Rows of query number and list of right references, an array of objects as NumPy saves it."""
    try:
        if path.stat().st_size > _MAX_TRUTH_BYTES:
            raise ValueError("it is too large")
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.kind != "O" or len(shape) != 2 or shape[1] != 2:
                raise ValueError("it has no rows of a query and its references")
            rows = np.asarray(_ArraysOnly(file).load(), object).reshape(shape)
        truth = {int(row[0]): {int(x) for x in np.atleast_1d(row[1])} for row in rows}
        if sorted(truth) != list(range(len(truth))):
            raise ValueError("its queries are not numbered from 0")
    except Exception as error:  # a damaged pickle makes its reader raise anything
        raise RecordingError(f"{path} cannot be read as ground truth: {error}") from error
    return [truth[i] for i in range(len(truth))]
