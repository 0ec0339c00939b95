"""Where things are when: the course around the block, the robot's way along it, the traffic's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter1d

from robot_perception.core.types import F64

LONG_SIDE_M, SHORT_SIDE_M, CORNER_RADIUS_M = 30.0, 16.0, 12.0
# Where the robot stops in each lap, in metres from its start in the middle of a long side.
STOP_AT_M = 92.0
_STEP_M = 0.05
_LATERAL_MPS2, _BRAKE_MPS2, _ACCELERATE_MPS2 = 4.2, 3.5, 3.0

Motion: TypeAlias = Callable[[F64], F64]
"""Seconds (T,) -> poses (T, 4, 4) in the street's frame."""

Distance: TypeAlias = Callable[[F64], F64]
"""Seconds (T,) -> metres (T,) along a course."""


@dataclass(frozen=True, eq=False)
class Course:
    """A closed course, counter-clockwise, sampled at `at` (K,) metres; `heading` is unwrapped."""

    at: F64
    xy: F64
    heading: F64

    @property
    def length(self) -> float:
        return float(self.at[-1])

    def poses(self, s: F64) -> F64:
        """Poses (T, 4, 4) on the ground, x along the course, `s` (T,) metres from its start."""
        laps, rest = np.divmod(s, self.length)
        heading = np.interp(rest, self.at, self.heading) + 2 * np.pi * laps
        poses = np.zeros((len(s), 4, 4))
        poses[:, 0, 0] = poses[:, 1, 1] = np.cos(heading)
        poses[:, 1, 0] = np.sin(heading)
        poses[:, 0, 1] = -poses[:, 1, 0]
        poses[:, 0, 3] = np.interp(rest, self.at, self.xy[:, 0])
        poses[:, 1, 3] = np.interp(rest, self.at, self.xy[:, 1])
        poses[:, 2, 2] = poses[:, 3, 3] = 1.0
        return poses

    def beside(self, left_m: float) -> Course:
        """The parallel course `left_m` to the left (towards the inside)."""
        normal = np.stack([-np.sin(self.heading), np.cos(self.heading)], axis=1)
        return _course(self.xy + left_m * normal, self.heading)


def block_course() -> Course:
    """The robot's lane: a rounded rectangle, the corners eased in and out as a driver does."""
    radius = CORNER_RADIUS_M
    sides = (LONG_SIDE_M, SHORT_SIDE_M, LONG_SIDE_M, SHORT_SIDE_M)
    # Heading over distance, beginning in the middle of the first side; integrated to positions.
    turn = radius * np.pi / 2
    knots, headings, s, heading = [0.0], [0.0], -sides[0] / 2, 0.0
    for side in sides:
        s += side
        knots += [s, s + turn]
        headings += [heading, heading + np.pi / 2]
        s, heading = s + turn, heading + np.pi / 2
    total = s + sides[0] / 2
    knots.append(total)
    headings.append(heading)
    count = round(total / _STEP_M)
    at = np.linspace(0.0, total, count + 1)
    raw = np.interp(at, knots, headings) - at * (2 * np.pi / total)
    smooth = gaussian_filter1d(raw[:-1], 2.0 / _STEP_M, mode="wrap")
    smooth = np.append(smooth, smooth[0]) + at * (2 * np.pi / total)
    step = (smooth[1:] + smooth[:-1]) / 2
    xy = np.cumsum(np.stack([np.cos(step), np.sin(step)], axis=1), axis=0) * (total / count)
    xy = np.concatenate([np.zeros((1, 2)), xy])
    # Opposite sides are equal, so it closes by symmetry; what is left is rounding.
    return _course(xy - np.linspace(0, 1, count + 1)[:, None] * xy[-1], smooth)


def _course(xy: F64, heading: F64) -> Course:
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    return Course(np.concatenate([[0.0], np.cumsum(steps)]), xy, heading)


def travelled(course: Course, speed_mps: float, stop_s: float, duration_s: float) -> Distance:
    """The robot's distance along the course in m: seconds (T,) -> metres (T,).

    As fast as `speed_mps`, the curves and the stop at the zebra crossing allow; starts at speed.
    """
    laps = int(np.ceil(duration_s * speed_mps / course.length)) + 1
    s = np.arange(0.0, laps * course.length, _STEP_M)
    curvature = np.gradient(course.heading, course.at)
    bend = np.abs(np.interp(s % course.length, course.at, curvature))
    limit = np.minimum(speed_mps**2, _LATERAL_MPS2 / np.maximum(bend, 1e-6))
    stops = np.searchsorted(s, STOP_AT_M + course.length * np.arange(laps))
    stops = stops[stops < len(s) - 1]
    if stop_s > 0:
        limit[stops] = 0.0
    # v^2 after a distance d at a constant acceleration a is v0^2 + 2 a d, either way.
    limit = np.minimum.accumulate(limit - 2 * _ACCELERATE_MPS2 * s) + 2 * _ACCELERATE_MPS2 * s
    back = limit[::-1] - 2 * _BRAKE_MPS2 * s
    limit = (np.minimum.accumulate(back) + 2 * _BRAKE_MPS2 * s)[::-1]
    v = np.sqrt(np.maximum(limit, 0.0))
    t = np.concatenate([[0.0], np.cumsum(2 * _STEP_M / np.maximum(v[1:] + v[:-1], 1e-3))])
    if stop_s > 0:
        t = t + stop_s * np.searchsorted(stops, np.arange(len(s)))
        t = np.insert(t, stops + 1, t[stops] + stop_s)
        s = np.insert(s, stops + 1, s[stops])
    return lambda seconds: np.interp(seconds, t, s)


def along(course: Course, distance: Distance, backwards: bool = False) -> Motion:
    """The motion of something at `distance` along the course, or against its direction."""
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])

    def motion(seconds: F64) -> F64:
        s = distance(seconds)
        return course.poses(-s) @ turn if backwards else course.poses(s)

    return motion


def lifted(motion: Motion, height_m: float) -> Motion:
    """The same motion, `height_m` higher."""

    def higher(seconds: F64) -> F64:
        poses = motion(seconds)
        poses[:, 2, 3] += height_m
        return poses

    return higher
