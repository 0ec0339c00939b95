"""Two maps in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit.decision import Acceptance, Calibration, candidates
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import load_map, save_map
from robot_perception.core.revisit.vlad import vocabulary_hash


@dataclass(frozen=True)
class Merged:
    """How many keyframes each map gave, and how many places of the second are in the first."""

    backend: str
    first: int
    second: int
    joined: int


def merge_maps(
    first: Path, second: Path, out: Path, progress: Callable[[int, int], None] | None = None
) -> Merged:
    """Write the keyframes and edges of both maps to `out`, and an edge for each keyframe of the
    second that is recognised among those of the first.

    It recognises by the default calibration. Keyframes of the second map get new ids and sessions,
    after those of the first; poses stay in the frame of their own session. Raises WeightsRejected
    unless both were made with the same features and vocabulary, and OSError.
    """
    vocabulary, keyframes, edges, backend = load_map(first)
    other, others, other_edges, other_backend = load_map(second)
    if backend != other_backend:
        raise WeightsRejected(
            f"{first.name} was made with {backend}, {second.name} with {other_backend}"
        )
    if vocabulary_hash(vocabulary) != vocabulary_hash(other):
        raise WeightsRejected(f"{first.name} and {second.name} were made with other vocabularies")
    index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)
    for keyframe in keyframes:
        index.add(
            keyframe.descriptors.astype(np.float32), keyframe.image_descriptor.astype(np.float32)
        )
    config, calibration = RevisitConfig(), Calibration()
    acceptance = Acceptance(config, calibration)
    count = len(keyframes)
    session = 1 + max((k.session for k in keyframes), default=-1)
    joins: list[tuple[int, int]] = []
    moved = []
    for done, keyframe in enumerate(others, 1):
        renamed = replace(keyframe, id=count + keyframe.id, session=session + keyframe.session)
        moved.append(renamed)
        found = candidates(renamed, index, keyframes, count, config, calibration)
        if acceptance.step(found[0] if found else None):
            joins.append((renamed.id, found[0].keyframe.id))
        if progress:
            progress(done, len(others))
    joined = np.array(joins, np.int32).reshape(-1, 2)
    save_map(
        out,
        backend,
        vocabulary,
        [*keyframes, *moved],
        np.concatenate([edges, other_edges + np.int32(count), joined]),
    )
    return Merged(backend, count, len(others), len(joins))
