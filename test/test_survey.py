"""What the doctor says of a robot that is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_perception.apps.survey import parameter_file
from robot_perception.core.config import ForecastConfig
from robot_perception.core.lidar_pattern import find_pattern
from robot_perception.core.types import Scan
from robot_perception.pipeline.perception import Tasks
from robot_perception.pipeline.settings import configured, load_tasks
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans
from robot_perception.pipeline.sources import open_recording
from robot_perception.pipeline.survey import Survey, expectations, proposal, survey


def simulated(beams: int, columns: int, count: int = 3) -> list[Scan]:
    config = SimulatorConfig(
        beams=beams, columns=columns, elevation_top_deg=15.0, elevation_bottom_deg=-15.0
    )
    return [frame for frame in scans(config, count) if isinstance(frame, Scan)]


def rosette(index: int) -> Scan:
    """A non-repetitive pattern of 70 x 24 degrees."""
    t = np.linspace(0, 0.1, 24_000) + 0.1 * index
    azimuth = np.deg2rad(35) * np.cos(2 * np.pi * 73 * t) * np.cos(2 * np.pi * 3.1 * t)
    elevation = np.deg2rad(12) * np.sin(2 * np.pi * 117 * t)
    ranges = 10 + 5 * np.sin(3 * azimuth)
    flat = ranges * np.cos(elevation)
    xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), ranges * np.sin(elevation)], 1)
    return Scan(index * 100_000_000, "livox", xyz.astype(np.float32))


def seen(frames: list[Scan]) -> Survey:
    return Survey(
        {"points": "/points"}, (), tuple(frames), None, find_pattern(frames), None, 10.0, {}
    )


@pytest.mark.parametrize(("beams", "columns"), [(16, 1024), (32, 512), (64, 1024), (128, 1024)])
def test_beams_and_columns_of_spinning_sensors(beams: int, columns: int) -> None:
    named = simulated(beams, columns)
    for frames in (named, [replace(scan, ring=None) for scan in named]):
        pattern = find_pattern(frames)
        assert (pattern.beams, pattern.columns, pattern.revolves) == (beams, columns, True)
        expected = np.deg2rad(np.linspace(15.0, -15.0, beams))
        np.testing.assert_allclose(pattern.elevations_rad, expected, atol=np.deg2rad(0.05))


def test_a_solid_state_sensor_is_told_that_nothing_is_forecast() -> None:
    found = seen([rosette(i) for i in range(6)])
    assert found.pattern is not None and not found.pattern.beams
    assert found.pattern.azimuth_share < 0.3
    assert proposal(found) == {}
    forecast = list(expectations(found, Tasks(forecast=ForecastConfig())))[-1]
    assert not forecast.works and forecast.ms is None and "beams" in forecast.finding


def test_what_is_proposed_can_be_loaded_and_runs(tmp_path: Path) -> None:
    found = seen(simulated(16, 512, 4))
    proposed = proposal(found)
    file = tmp_path / "mine.yaml"
    file.write_text(parameter_file(proposed, Path("drive.mcap")))
    config = load_tasks(file).forecast
    assert config == configured(proposed).forecast
    assert config is not None and (config.beams, config.columns, config.period_s) == (16, 512, 0.1)
    forecast = list(expectations(found, Tasks(forecast=config)))[-1]
    assert forecast.works and forecast.ms is not None and forecast.ms > 0


def test_a_real_sensor_without_rings(kitti: Path) -> None:
    found = survey(open_recording(kitti))
    assert found.pattern is not None
    assert (found.pattern.beams, found.pattern.columns) == (64, 2048)
    assert found.camera is not None and found.image_hz == pytest.approx(10, abs=0.5)
