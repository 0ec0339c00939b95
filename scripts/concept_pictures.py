"""Draws the pictures of docs/concepts.md: python scripts/concept_pictures.py"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.config import ForecastConfig, SegmentationConfig
from robot_perception.core.forecast.warp import cloud_at_horizon
from robot_perception.core.range_image import SensorModel, calibrate_elevations, project
from robot_perception.core.revisit import vlad
from robot_perception.core.types import U8, Forecast, ImageFrame, Scan, Segmentation
from robot_perception.pipeline import draw
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.pipeline.report_views import horizon_colours
from robot_perception.pipeline.simulator import SimulatorConfig, simulate

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def main() -> None:
    """Write them to docs/images."""
    tasks = Tasks(segmentation=SegmentationConfig(), forecast=ForecastConfig(method="scene_flow"))
    pipeline = Pipeline(tasks)
    for frame in simulate(SimulatorConfig(seed=5, duration_s=1.6, cars=8)):
        if not isinstance(frame, ImageFrame | Scan):
            continue
        for result in pipeline.step(frame):
            if isinstance(result, Segmentation):
                image, labels = frame, result.labels
            elif isinstance(result, Forecast):
                scan, forecast = frame, result
    _save("concept_range_image.jpg", range_image(scan))
    _save("concept_super_segments.jpg", super_segments(image.rgb, labels))
    _save("concept_horizons.jpg", horizons(scan, forecast))


def range_image(scan: Scan) -> U8:
    """The cloud from above, and below it the same points as a picture of ranges."""
    model = SensorModel(calibrate_elevations(scan.xyz, 64), 2048, 1.0, 85.0)
    ranges, _ = project(scan.xyz, model)
    near = draw.coloured_by(-np.sqrt(ranges.ravel()), -7.5, -1.0).reshape(*ranges.shape, 3)
    near[ranges == 0] = draw.BACKGROUND
    tall = np.repeat(np.repeat(near, 4, axis=0), 1, axis=1)
    picture = cv2.resize(tall, (1200, 256), interpolation=cv2.INTER_AREA)
    colours = draw.coloured_by(-np.sqrt(np.linalg.norm(scan.xyz, axis=1)), -7.5, -1.0)
    above = draw.perspective([(scan.xyz, colours)])
    above = cv2.resize(above, (1200, round(above.shape[0] * 1200 / above.shape[1])))
    draw.label(above, "the points of one revolution")
    picture = np.ascontiguousarray(picture)
    draw.label(picture, "the same as a range image: a row a beam, a column a direction")
    return np.concatenate([above, np.full((6, 1200, 3), 255, np.uint8), picture])


def super_segments(rgb: U8, labels: NDArray[np.integer]) -> U8:
    """Segments; their graph; one of them with its neighbours."""
    height, width = rgb.shape[:2]
    masks = vlad.segment_masks(labels, (height // 8, width // 8))
    centres = np.rint((masks.centroids + 0.5) * 8).astype(int)
    steps = vlad.adjacency(masks.centroids, 1)
    middle = int(np.argmin(np.linalg.norm(centres - [width * 0.5, height * 0.45], axis=1)))
    segments = draw.overlay(rgb, labels.astype(np.uint16), 0.55)
    graph = (rgb * 0.45).astype(np.uint8)
    for a, b in np.argwhere(np.triu(steps, 1)).tolist():
        cv2.line(graph, centres[a].tolist(), centres[b].tolist(), (90, 200, 255), 1, cv2.LINE_AA)
    for x, y in centres.tolist():
        cv2.circle(graph, (x, y), 4, (255, 255, 255), -1, cv2.LINE_AA)
    one = (rgb * 0.35).astype(np.uint8)
    for i in np.flatnonzero(steps[middle]).tolist():
        colour = np.array((255, 190, 60) if i == middle else (90, 200, 255))
        inside = labels == masks.labels[i]
        one[inside] = (rgb[inside] * 0.45 + colour * 0.55).astype(np.uint8)
    draw.label(segments, "segments")
    draw.label(graph, "their neighbours (Delaunay)")
    draw.label(one, "one super-segment: a segment and its neighbours")
    return np.concatenate([segments, graph, one])


def horizons(scan: Scan, forecast: Forecast) -> U8:
    """From above: now, and what is expected at each horizon, as the sensor will see it then."""
    colours = horizon_colours(len(forecast.clouds))
    panels = []
    now = (scan.xyz, np.array((205, 212, 222), np.uint8))
    for i, seconds in enumerate(forecast.horizons_s):
        if i % 2:
            continue
        there = (cloud_at_horizon(forecast, i), colours[i])
        panel = draw.from_above([now, there], 30.0, 420)
        draw.label(panel, f"in {seconds:.1f} s", tuple(colours[i].tolist()))
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def _save(name: str, rgb: U8) -> None:
    width = 1200
    size = (width, round(rgb.shape[0] * width / rgb.shape[1]))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(IMAGES / name), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    print(IMAGES / name)


if __name__ == "__main__":
    main()
