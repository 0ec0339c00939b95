"""tf: the tree of frames, over time."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from robot_perception.core.types import F64, Odometry, Transforms
from robot_perception.pipeline.odometry import RESTART_NS, TOLERANCE_NS

_KEPT = 1000
# No robot has so many frames one upon another; a loop of parents has no end.
_MAX_DEPTH = 100


@dataclass
class _Link:
    """Poses of a frame in its parent, by stamp; one that is static holds at all times."""

    parent: str
    static: bool
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))
    poses: deque[F64] = field(default_factory=lambda: deque(maxlen=_KEPT))


class TransformTree:
    """The frames of tf as they came. Thread-safe; a backward stamp starts a frame anew."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._links: dict[str, _Link] = {}

    def add(self, transforms: Transforms) -> None:
        """Take what a message on /tf or /tf_static says."""
        with self._condition:
            for pose in transforms.poses:
                self._add(pose, transforms.static)
            self._condition.notify_all()

    def _add(self, pose: Odometry, static: bool) -> None:
        link = self._links.get(pose.child_frame_id)
        anew = (
            link is None
            or (link.parent, link.static) != (pose.frame_id, static)
            or static
            or pose.stamp_ns < link.stamps[-1] - RESTART_NS
        )
        if link is None or anew:
            link = self._links[pose.child_frame_id] = _Link(pose.frame_id, static)
        elif pose.stamp_ns <= link.stamps[-1]:
            # Repeated, as relays do, or out of order: what is known already is as good.
            return
        link.stamps.append(pose.stamp_ns)
        link.poses.append(pose.pose)

    def pose(self, target: str, source: str, stamp_ns: int | None) -> Odometry | None:
        """The pose of the frame `source` in `target` at `stamp_ns`, or up to 100 ms before where tf
        has not come so far yet, or the latest (None). None where tf does not know."""
        with self._condition:
            up, down = self._to_root(source), self._to_root(target)
            if up is None or down is None:
                return None
            common = next((name for name in up if name in down), None)
            if common is None:
                return None
            names = [*up[: up.index(common)], *down[: down.index(common)]]
            moving = [self._links[n] for n in names if not self._links[n].static]
            at = _common_stamp(moving, stamp_ns)
            if at is None:
                return None
            here, there = np.eye(4), np.eye(4)
            for name in up[: up.index(common)]:
                here = _interpolated(self._links[name], at) @ here
            for name in down[: down.index(common)]:
                there = _interpolated(self._links[name], at) @ there
        stamp = at if moving or stamp_ns is None else stamp_ns
        return Odometry(stamp, target, source, np.linalg.inv(there) @ here)

    def wait_for(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> bool:
        """True once the pose at `stamp_ns` itself is known."""

        def known() -> bool:
            found = self.pose(target, source, stamp_ns)
            return found is not None and found.stamp_ns == stamp_ns

        with self._condition:
            return self._condition.wait_for(known, timeout_s)

    def _to_root(self, name: str) -> list[str] | None:
        """The frames from `name` to its root; None where they go round."""
        names = [name]
        while name in self._links:
            name = self._links[name].parent
            names.append(name)
            if len(names) > _MAX_DEPTH:
                return None
        return names


def _common_stamp(moving: list[_Link], stamp_ns: int | None) -> int | None:
    """When all of `moving` are known: at `stamp_ns`, or little before, or the latest (None)."""
    latest = min((link.stamps[-1] for link in moving), default=stamp_ns or 0)
    at = latest if stamp_ns is None else min(latest, stamp_ns)
    if any(link.stamps[0] > at for link in moving):
        return None
    return at if stamp_ns is None or stamp_ns - at <= TOLERANCE_NS else None


def _interpolated(link: _Link, stamp_ns: int) -> F64:
    """The pose (4, 4) of a link at a stamp within its own: linear, and along the great circle."""
    if link.static or stamp_ns >= link.stamps[-1]:
        return link.poses[-1]
    after = len(link.stamps) - 1
    while after > 0 and link.stamps[after - 1] >= stamp_ns:
        after -= 1
    if link.stamps[after] == stamp_ns:
        return link.poses[after]
    first, second = link.poses[after - 1], link.poses[after]
    share = (stamp_ns - link.stamps[after - 1]) / (link.stamps[after] - link.stamps[after - 1])
    turns = Slerp([0, 1], Rotation.from_matrix([first[:3, :3], second[:3, :3]]))
    pose = np.eye(4)
    pose[:3, :3] = turns(share).as_matrix()
    pose[:3, 3] = (1 - share) * first[:3, 3] + share * second[:3, 3]
    return pose
