"""Many maps in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit.decision import Acceptance, Calibration, candidates
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import Keyframe, PlaceMap, load_map, save_map
from robot_perception.core.revisit.vlad import vocabulary_hash


@dataclass(frozen=True)
class Merged:
    """How many keyframes each map gave, how many of these are places of a map before it, and the
    calibration that decided."""

    backend: str
    sessions: int
    keyframes: list[int]
    joined: list[int]
    calibration: Calibration


def merge_maps(
    paths: Sequence[Path],
    out: Path,
    config: RevisitConfig | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Write the keyframes and edges of all maps to `out`, and an edge for each keyframe that is
    recognised among those of the maps before.

    It recognises by `calibration`, else by the one that the maps hold, and `out` holds it again.
    Keyframes get new ids and sessions, map after map; poses stay in the frame of their own session.
    The maps are not read into memory: their descriptors are, to be searched. Raises WeightsRejected
    unless all were made with the same features and vocabulary, ValueError where their calibrations
    differ and none is given, or there are fewer than two, and OSError.
    """
    config = config or RevisitConfig()
    if len(paths) < 2:
        raise ValueError("there is nothing to merge: name two maps or more")
    maps = [load_map(path, mapped=True) for path in paths]
    _check_alike(paths, maps)
    calibration = calibration or _common(paths, maps)
    index = PlaceIndex(len(maps[0].vocabulary.components), maps[0].vocabulary.centres.size)
    keyframes: list[Keyframe] = []
    edges, joined = [], []
    total = sum(len(m.keyframes) for m in maps)
    for each in maps:
        first = len(keyframes)
        session = 1 + max((k.session for k in keyframes), default=-1)
        acceptance = Acceptance(config, calibration)
        joins: list[tuple[int, int]] = []
        moved: list[Keyframe] = []
        for keyframe in each.keyframes:
            renamed = replace(keyframe, id=first + keyframe.id, session=session + keyframe.session)
            if moved and moved[-1].session != renamed.session:
                acceptance = Acceptance(config, calibration)
            moved.append(renamed)
            if first:
                found = candidates(renamed, index, keyframes, first, config, calibration)
                if acceptance.step(found[0] if found else None):
                    joins.append((renamed.id, found[0].keyframe.id))
            if progress:
                progress(first + len(moved), total)
        # Not before all of them are looked up: each finds earlier maps only.
        for keyframe in moved:
            index.add(
                keyframe.descriptors.astype(np.float32),
                keyframe.image_descriptor.astype(np.float32),
            )
        keyframes += moved
        edges += [each.edges + np.int32(first), np.array(joins, np.int32).reshape(-1, 2)]
        joined.append(len(joins))
    own = None if calibration == Calibration() else calibration.numbers()
    save_map(out, maps[0].backend, maps[0].vocabulary, keyframes, np.concatenate(edges), own)
    sessions = 1 + max((k.session for k in keyframes), default=-1)
    counts = [len(m.keyframes) for m in maps]
    return Merged(maps[0].backend, sessions, counts, joined, calibration)


def _check_alike(paths: Sequence[Path], maps: Sequence[PlaceMap]) -> None:
    first, wanted = maps[0], vocabulary_hash(maps[0].vocabulary)
    for path, other in zip(paths[1:], maps[1:], strict=True):
        if first.backend != other.backend:
            raise WeightsRejected(
                f"{paths[0].name} was made with {first.backend}, {path.name} with {other.backend}"
            )
        if vocabulary_hash(other.vocabulary) != wanted:
            raise WeightsRejected(
                f"{paths[0].name} and {path.name} were made with other vocabularies"
            )


def _common(paths: Sequence[Path], maps: Sequence[PlaceMap]) -> Calibration:
    """The calibration that all maps hold, or the default if none holds any."""
    own = [None if m.calibration is None else tuple(m.calibration.tolist()) for m in maps]
    for path, other in zip(paths[1:], own[1:], strict=True):
        if other != own[0]:
            raise ValueError(
                f"{paths[0].name} and {path.name} were made with other calibrations: "
                "name the vocabulary whose calibration shall decide"
            )
    return Calibration() if own[0] is None else Calibration(*own[0])
