"""The steps of a forecast: what a scan proposes for the future, and what is chosen of it.

There are two ways to go them, loops on the CPU and tensors on a GPU, and one contract.
"""

from __future__ import annotations

import copy
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from robot_perception.core.forecast.candidates import Candidates, candidates
from robot_perception.core.forecast.features import network_model, sequence
from robot_perception.core.forecast.motion import Motion
from robot_perception.core.forecast.scene import Observed, Scene, SceneBuilder, observe
from robot_perception.core.forecast.selection import Selected, SelectorForecaster, of_geometry
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.range_image import SensorModel
from robot_perception.core.threads import threads
from robot_perception.core.types import F32, F64, Scan


class Proposal(Protocol):
    """What may be predicted after a scan, with the `poses` (T, 4, 4) of the sensor then."""

    @property
    def poses(self) -> F64: ...

    def by_geometry(self) -> list[Selected]:
        """What is visible of the scan, by horizon."""
        ...

    def points_of_geometry(self, horizon: int) -> F32:
        """The points (N, 3) of one of those."""
        ...

    def by_network(self) -> list[Selected]:
        """What the network chooses, by horizon."""
        ...


class Steps(Protocol):
    """Takes scans in order, and keeps what outlives them. Its attributes are replaced and never
    changed, so that a shallow copy keeps what was."""

    def reset(self) -> None: ...

    def begin(self, scan: Scan, model: SensorModel) -> None:
        """Start on what can be said of `scan` without its motion."""
        ...

    def propose(
        self, motion: Motion | None, horizons_s: tuple[float, ...], by_network: bool
    ) -> Proposal | None:
        """What may come after the scan that was begun; None for the first, which has no motion.
        `by_network`: whether the network is likely to be asked, so that it may begin."""
        ...


@dataclass(frozen=True, eq=False)
class _Proposal:
    scene: Scene
    found: Candidates
    model: SensorModel
    network: SelectorForecaster | None
    sequence: Future[F32] | None

    @property
    def poses(self) -> F64:
        return self.found.poses

    def by_geometry(self) -> list[Selected]:
        horizons = range(len(self.found.horizons_s))
        return list(threads().map(lambda h: of_geometry(self.found, h, self.model), horizons))

    def points_of_geometry(self, horizon: int) -> F32:
        observed = self.found.observed
        points: F32 = self.found.at(horizon)[:observed][self.found.visible[horizon, :observed]]
        return points

    def by_network(self) -> list[Selected]:
        assert self.network is not None
        steps = None if self.sequence is None else self.sequence.result()
        return self.network.select(self.scene, self.found, self.model, steps)


class Loops:
    """On the CPU; `past` scans are kept."""

    def __init__(self, past: int, network: SelectorForecaster | None) -> None:
        self._builder = SceneBuilder(past)
        self._network = network

    def reset(self) -> None:
        self._builder = copy.copy(self._builder)
        self._builder.reset()

    def begin(self, scan: Scan, model: SensorModel) -> None:
        self._observed = threads().submit(observe, scan, model)

    def propose(
        self, motion: Motion | None, horizons_s: tuple[float, ...], by_network: bool
    ) -> Proposal | None:
        seen: Observed = self._observed.result()
        self._builder = copy.copy(self._builder)
        begun, coming = self._builder.begin(seen, motion), None
        if self._network is not None and motion is not None and by_network:
            # Behind all that the scene waits for: it is needed last.
            coming = threads().submit(sequence, seen.image, begun.past, network_model(seen.model))
        scene = self._builder.scene(begun)
        if motion is None:
            return None
        poses = predicted_poses(scene.twist, horizons_s)
        found = candidates(scene, poses, horizons_s, seen.model)
        return _Proposal(scene, found, seen.model, self._network, coming)
