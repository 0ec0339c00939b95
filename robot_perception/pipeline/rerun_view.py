"""A replay in the rerun viewer, for people without ROS; needs the package `rerun-sdk`.

Entities: `camera/image`, `camera/segments`; `lidar/observed` and `lidar/forecast/<seconds>` in the
LiDAR's frame; `map/keyframes` and `map/revisits` in the odometry's; `revisit/evidence`; and
`plots/probability`, `plots/chamfer/<method>/<seconds>` (m²).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from robot_perception.core.types import (
    F32,
    Forecast,
    Frame,
    ImageFrame,
    Result,
    Revisit,
    Scan,
    Segmentation,
)
from robot_perception.pipeline import draw
from robot_perception.pipeline.scoring import Score
from robot_perception.pipeline.sinks import SinkError

if TYPE_CHECKING:
    import rerun as rr
    import rerun.blueprint as rrb

_TIMELINE = "stamp"
_JPEG_QUALITY = 80
# Every point of five clouds would fill the viewer's memory in a minute.
_FORECAST_POINTS = 30_000
_FLUSH_S = 10.0
_FOUND, _ORANGE = (51, 153, 255), (255, 128, 0)


@dataclass(frozen=True)
class View:
    """A stream to the viewer; `check` raises SinkError if what was logged cannot be written."""

    stream: rr.RecordingStream
    check: Callable[[], None] = lambda: None


@contextmanager
def open_view(where: str) -> Iterator[View]:
    """What `show` and `show_scores` log to: `where` is "rerun" (opens a window) or a file NAME.rrd.

    The file gets its name when all went well. Raises ValueError where a viewer cannot be had, and
    SinkError where the file cannot be written.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ValueError("--viewer needs the package rerun-sdk: pip install rerun-sdk") from error
    if where != "rerun" and not where.endswith(".rrd"):
        raise ValueError(f"--viewer takes 'rerun' or a file NAME.rrd, not {where!r}")
    windowless = sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if where == "rerun" and windowless:
        raise ValueError(
            "there is no display to open the viewer on: write a file with --viewer NAME.rrd, and "
            "open it where there is one (`rerun NAME.rrd`, or https://rerun.io/viewer)"
        )
    stream = rr.RecordingStream("robot_perception")
    if where == "rerun":
        stream.spawn(default_blueprint=_layout())
        _log_frames(stream)
        yield View(stream)
        # A viewer that was closed takes nothing more.
        with suppress(RuntimeError):
            stream.flush(timeout_sec=_FLUSH_S)
        return
    with _written_to(Path(where), stream) as check:
        _log_frames(stream)
        yield View(stream, check)


@contextmanager
def _written_to(path: Path, stream: rr.RecordingStream) -> Iterator[Callable[[], None]]:
    """What the stream encodes, into `path`; calling what it gives raises SinkError if that fails.

    The stream's own writer waits for ever where the disk is full: it writes to a pipe here, which
    is emptied whatever becomes of the file.
    """
    part = path.with_suffix(".part.rrd")
    failed: list[OSError] = []

    def check() -> None:
        if failed:
            raise SinkError(f"{part} cannot be written: {failed[0].strerror}") from failed[0]

    def attempt(action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            failed.append(error)

    def empty(pipe: Path, file: BinaryIO) -> None:
        with pipe.open("rb") as source:
            while data := source.read(1 << 20):
                if not failed:
                    attempt(partial(file.write, data))
        attempt(file.close)

    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder) / "stream.rrd"
        os.mkfifo(pipe)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("wb")
        except OSError as error:
            raise SinkError(f"{part} cannot be written: {error.strerror}") from error
        writer = threading.Thread(target=empty, args=(pipe, file), daemon=True)
        writer.start()
        stream.save(pipe, default_blueprint=_layout())
        try:
            yield check
        finally:
            stream.disconnect()
            writer.join()
    check()
    part.replace(path)


def _layout() -> rrb.Blueprint:
    import rerun.blueprint as rrb

    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Tabs(
                rrb.Spatial3DView(origin="lidar", name="Now and the next half second"),
                rrb.Spatial3DView(origin="map", name="Keyframes and revisits"),
            ),
            rrb.Vertical(
                rrb.Spatial2DView(origin="camera", name="Segments"),
                rrb.Spatial2DView(origin="revisit", name="Latest revisit"),
                rrb.Tabs(
                    rrb.TimeSeriesView(origin="plots/probability", name="Revisit probability"),
                    rrb.TimeSeriesView(origin="plots/chamfer", name="Forecast error [m²]"),
                ),
            ),
            column_shares=[3, 2],
        ),
        collapse_panels=True,
    )


def _log_frames(stream: rr.RecordingStream) -> None:
    import rerun as rr

    for origin in ("lidar", "map"):
        stream.log(origin, rr.ViewCoordinates.FLU, static=True)


def show(view: View, frame: Frame, results: Iterable[Result]) -> None:
    """Log an image or a scan and what was made of it, at its stamp."""
    stream = view.stream
    _at(stream, frame.stamp_ns)
    if isinstance(frame, ImageFrame):
        stream.log("camera/image", _jpeg(frame.rgb))
    elif isinstance(frame, Scan):
        _show_points(stream, "lidar/observed", frame.xyz, draw.by_height(frame.xyz))
    for result in results:
        if isinstance(result, Segmentation):
            _show_segmentation(stream, result)
        elif isinstance(result, Revisit):
            assert isinstance(frame, ImageFrame)
            _show_revisit(stream, frame, result)
        else:
            _show_forecast(stream, result)
    view.check()


def show_scores(view: View, scores: Iterable[Score]) -> None:
    """Log the Chamfer distance (m²) of each horizon, and of repeating the last scan."""
    import rerun as rr

    for score in scores:
        _at(view.stream, score.stamp_ns)
        for name, value in (("forecast", score.forecast_m2), ("repeat", score.repeat_m2)):
            if np.isfinite(value):
                view.stream.log(f"plots/chamfer/{name}/{score.horizon_s:.1f}s", rr.Scalars(value))


def _at(stream: rr.RecordingStream, stamp_ns: int) -> None:
    stream.set_time(_TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))


def _jpeg(rgb: np.ndarray) -> Any:
    import rerun as rr

    return rr.Image(rgb).compress(jpeg_quality=_JPEG_QUALITY)


def _show_points(stream: rr.RecordingStream, path: str, xyz: F32, colours: np.ndarray) -> None:
    import rerun as rr

    # A negative radius is in points of the screen.
    stream.log(path, rr.Points3D(xyz, colors=colours, radii=[-1.0]))


def _show_segmentation(stream: rr.RecordingStream, result: Segmentation) -> None:
    import rerun as rr

    ids = np.unique(result.labels)
    colours = draw.colour_of(ids)
    # The colours that the other pictures give these ids, and nothing where there is no segment.
    stream.log(
        "camera",
        rr.AnnotationContext(
            [
                (int(i), str(i) if i else "", (*(int(v) for v in c), 255 if i else 0))
                for i, c in zip(ids, colours, strict=True)
            ]
        ),
    )
    stream.log("camera/segments", rr.SegmentationImage(result.labels, opacity=0.5))


def _show_revisit(stream: rr.RecordingStream, frame: ImageFrame, result: Revisit) -> None:
    import rerun as rr

    stream.log("plots/probability", rr.Scalars(result.probability))
    if result.match_id is not None:
        stream.log("revisit/evidence", _jpeg(draw.evidence(frame, result, stacked=True)))
    positions = result.keyframe_positions
    known, edges = draw.placed(positions, result.edges)
    keyframes = rr.Points3D(positions[known], colors=[_FOUND], radii=[-3.0])
    stream.log("map/keyframes", keyframes)
    stream.log("map/revisits", rr.LineStrips3D(positions[edges], colors=[_ORANGE]))


def _show_forecast(stream: rr.RecordingStream, result: Forecast) -> None:
    colours = draw.horizon_colours(len(result.clouds))
    for horizon, cloud, colour in zip(result.horizons_s, result.clouds, colours, strict=True):
        some = draw.thin(cloud, _FORECAST_POINTS)
        _show_points(stream, f"lidar/forecast/{horizon:.1f}s", some, colour)
