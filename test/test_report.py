"""The report: what it says, what it bears, and what it must never let through."""

from __future__ import annotations

import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from robot_perception.core.types import F32, Forecast, ImageFrame, Revisit, Scan, Segment
from robot_perception.core.types import Segmentation as Masks
from robot_perception.pipeline import draw, report_plots
from robot_perception.pipeline.health import percentiles
from robot_perception.pipeline.inbox import Accounting
from robot_perception.pipeline.replay import Replayed
from robot_perception.pipeline.report import ReportBuilder, save_pictures, write_report
from robot_perception.pipeline.report_views import CAMERA, ERROR, Sample, Track
from robot_perception.pipeline.scoring import Score

T0 = 1_317_042_272_000_000_000
PERIOD = 100_000_000
HOSTILE = '<script>alert("x")</script>$\\frac'


def replayed(**changes: object) -> Replayed:
    values: dict[str, object] = {
        "accounting": {},
        "reasons": {},
        "results": {},
        "latency_ms": {},
        "latency_series_ms": {},
        "scores": [],
        "backends": {},
        "damage": (),
        "duration_s": 1.0,
    }
    return Replayed(**(values | changes))  # type: ignore[arg-type]


def image(i: int) -> ImageFrame:
    noise = np.random.default_rng(i).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    rgb = np.asarray(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)
    return ImageFrame(T0 + i * PERIOD, "camera", rgb)


def masks(frame: ImageFrame, backend: str = "embedded") -> Masks:
    labels = np.zeros(frame.rgb.shape[:2], np.uint16)
    labels[20:100, 30:150], labels[120:200, 60:300] = 1, 2
    segments = tuple(Segment(i, 100, (0, 0, 10, 10), 1.0, 1.0) for i in (1, 2))
    return Masks(frame.stamp_ns, "camera", labels, np.ones(labels.shape, "f4"), segments, backend)


def keyframe(frame: ImageFrame, number: int, match: int | None) -> Revisit:
    found = {} if match is None else {"match_id": match, "match_stamp_ns": T0, "inliers": 30}
    return Revisit(
        frame.stamp_ns,
        "camera",
        number,
        "embedded",
        0.2 if match is None else 0.9,
        keypoints=np.full((30, 4), 50, np.float32),
        match_rgb=None if match is None else frame.rgb,
        match_size=None if match is None else (320, 240),
        keyframe_positions=np.array([[i, 0.0, np.nan if i == 1 else 0.0] for i in range(4)], "f4"),
        edges=np.array([[3, 0], [3, 1], [3, 9]], np.int32),
        **found,  # type: ignore[arg-type]
    )


def cloud(shift_m: float = 0.0) -> F32:
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    wall = np.stack([10 * np.cos(angle), 10 * np.sin(angle), np.tile([-1, 0, 1], 1000)], 1)
    return (wall + [shift_m, 0.0, 0.0]).astype(np.float32)


def forecast(scan: Scan, count: int = 2) -> Forecast:
    horizons = tuple(0.1 * (i + 1) for i in range(count))
    return Forecast(
        scan.stamp_ns,
        "lidar",
        horizons,
        (scan.xyz,) * count,
        (np.ones(len(scan.xyz), np.float32),) * count,
        np.zeros((count, 4, 8), np.float32),
        np.stack([np.eye(4)] * count),
        "ego_warp",
    )


def watched(frames: int = 4) -> ReportBuilder:
    builder = ReportBuilder()
    for i in range(frames):
        frame = image(i)
        match = 0 if i == frames - 1 else None
        builder.observe(frame, [masks(frame), keyframe(frame, i, match)])
        scan = Scan(T0 + i * PERIOD, "lidar", cloud(0.3 * i))
        builder.observe(scan, [forecast(scan)])
    return builder


def full_replay() -> Replayed:
    series = {"segmentation": [5.0, 6.0, 90.0], "forecast": [2.0]}
    return replayed(
        accounting={"image": Accounting(5, 4, 0, 1, 0), "points": Accounting(4, 4, 0, 0, 0)},
        reasons={"image: not after the last": 1},
        results={"segmentation": 4, "revisit": 4, "forecast": 4},
        latency_ms={name: percentiles(np.array(values)) for name, values in series.items()},
        latency_series_ms=series,
        scores=[Score(T0, 0.1, 0.25, 0.5), Score(T0 + PERIOD, 0.1, math.nan, math.nan)],
        backends={"segmentation": "embedded", "revisit": "embedded", "forecast": "ego_warp"},
    )


def parity(identical: bool = True) -> dict[str, object]:
    topic = {"compared": 4, "identical": 4 if identical else 3, "only_a": 0, "only_b": 0}
    return {"identical": identical, "topics": {"/segmentation/labels": topic}}


def live() -> dict[str, object]:
    numbers = {"count": 4, "p50": 5.0, "p90": 6.0, "p99": 7.0, "max": 8.0}
    return {
        "played": {},
        "duration_s": 2.0,
        "received": {"/segmentation/labels": 4, "/forecast/points": 0},
        "latency_ms": {"/segmentation/labels": numbers},
        "diagnostics": {"segmentation: image": {"message": "fine", "dropped": "0"}},
        "exit_codes": [0, 0],
    }


class _Page(HTMLParser):
    """Text outside scripts and styles, element names, and every address the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "img", "input", "br", "link"):
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += " " + " ".join(data.split())


def read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


def test_says_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "a drive", full_replay(), watched(), parity(), live())
    text = re.sub(r"\s+", " ", read(path).text)
    for statement in (
        "2011-09-26 13:04:32 UTC",
        "8 of 9 messages processed, 0 dropped, 1 rejected",
        "image 5 4 0 1 0",
        "every one accounted for",
        "1 revisit among 4 keyframes",
        "0.1 s 1 0.250 m² 0.500 m² −50 %",
        "1 undefined score (an empty cloud)",
        "not halved",
        "segmentation 3 6.00 ms",
        "/segmentation/labels 4 5.00 ms",
        "all are identical",
        "not those of Segment Anything",
        "takes the world to stand still",
    ):
        assert statement in text, statement


def test_says_when_something_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    lost = replayed(accounting={"image": Accounting(5, 4, 0, 0, 0)}, damage=("cut off",))
    write_report(path, "a drive", lost, ReportBuilder(), parity(identical=False), None)
    text = read(path).text
    assert "the counts do not add up" in text
    assert "not all are identical" in text
    assert "The recording is damaged: cut off" in text


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_bears_few_frames(tmp_path: Path, frames: int) -> None:
    builder = watched(frames) if frames else ReportBuilder()
    write_report(tmp_path / "report.html", "short", replayed(), builder, None, None)
    page = read(tmp_path / "report.html")
    assert ("figure" in page.tags) == (frames > 0)
    names = [saved.name for saved in save_pictures(builder, tmp_path)]
    assert names == (["overlay.jpg", "evidence.jpg", "forecast.jpg", "scan.jpg"] if frames else [])


def test_bears_single_stages_and_undefined_scores(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    only_images, only_scans = ReportBuilder(), ReportBuilder()
    only_images.observe(image(0), [])
    only_scans.observe(Scan(T0, "lidar", cloud()), [])
    only_scans.observe(Scan(T0 + PERIOD, "lidar", np.zeros((0, 3), np.float32)), [])
    undefined = replayed(
        scores=[Score(T0, 0.1, math.nan, 1.0)], backends={"forecast": "atppnet (untrained)"}
    )
    for builder in (only_images, only_scans):
        write_report(path, "one stage", undefined, builder, None, {"duration_s": 1.0})
    text = read(path).text
    assert "0.1 s 0 – m² – m²" in re.sub(r"\s+", " ", text)
    assert "calls itself untrained" in text


def test_escapes_names_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    builder = ReportBuilder()
    frame = image(0)
    builder.observe(frame, [masks(frame, backend=HOSTILE)])
    hostile = replayed(
        accounting={HOSTILE: Accounting(1, 1, 0, 0, 0)},
        reasons={HOSTILE: 1},
        backends={"segmentation": HOSTILE},
        latency_ms={HOSTILE: percentiles(np.ones(2))},
        latency_series_ms={HOSTILE: [1.0, 1.0]},
        damage=(HOSTILE,),
    )
    other = parity() | {"topics": {HOSTILE: dict.fromkeys(("compared", "identical"), 1)}}
    other["topics"][HOSTILE] |= dict.fromkeys(("only_a", "only_b"), 0)  # type: ignore[index]
    node = live() | {"diagnostics": {HOSTILE: {"message": HOSTILE, HOSTILE: HOSTILE}}}
    write_report(path, HOSTILE, hostile, builder, other, node)
    page = read(path)
    assert page.tags.count("script") == 2
    assert page.text.count("<script>alert") >= 9
    assert "link" not in page.tags
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)


def test_replaces_the_old_report_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_report(path, "new", replayed(), ReportBuilder(), None, None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_track_thins_evenly_within_its_bounds() -> None:
    track = Track(max_samples=10, max_bytes=10_000)
    for i in range(1000):
        if track.wants_next():
            track.add(Sample(i, i, {CAMERA: bytes(1500)}, {}))
    orders = [sample.order for sample in track.samples]
    assert len(orders) * 1500 <= 10_000
    assert orders[0] == 0
    assert orders[-1] >= 500
    assert len(set(np.diff(orders))) == 1


def test_compares_the_forecast_with_the_scan_of_its_time() -> None:
    builder = ReportBuilder()
    for i, shift in enumerate((0.0, 0.0, 0.0, 5.0)):
        scan = Scan(T0 + i * PERIOD, "lidar", cloud(shift))
        builder.observe(scan, [forecast(scan)])
    captions = [sample.captions.get(ERROR) for sample in builder.lidar.samples]
    assert captions[:2] == [None, None]
    assert captions[2] is not None and "median 0 cm off · 100 % within 50 cm" in captions[2]
    assert captions[3] is not None and "100 %" not in captions[3]


def test_pictures_for_a_readme(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    names = {path.name for path in save_pictures(watched(), folder)}
    assert names >= {"overlay.jpg", "evidence.jpg", "forecast.jpg", "forecast_error.png"}
    for name in names:
        picture = cv2.imread(str(folder / name))
        assert picture is not None and picture.std() > 5


def test_perspective_shows_what_is_ahead_and_nearest() -> None:
    red, green = np.array((255, 0, 0), np.uint8), np.array((0, 255, 0), np.uint8)
    ahead, hidden, behind = (np.array([[x, 0.0, 0.0]], np.float32) for x in (5.0, 40.0, -50.0))
    left = np.array([[5.0, 3.0, 0.0]], np.float32)
    blank = draw.perspective([(behind, red)])
    assert (blank == blank[0, 0]).all()
    columns = np.nonzero((draw.perspective([(left, red)])[..., 0] > 100).any(axis=0))[0]
    assert columns.max() < 400
    # On one ray from the camera the nearer point is seen, whichever layer comes first.
    eye = np.array([-11.0, 0.0, 6.0], np.float32)
    hidden = (eye + (ahead - eye) * 2.5).astype(np.float32)
    for layers in ([(ahead, red), (hidden, green)], [(hidden, green), (ahead, red)]):
        picture = draw.perspective(layers)
        assert (picture[..., 0] > 150).any() and not (picture[..., 1] > 150).any()


def test_evidence_stands_side_by_side_or_stacked() -> None:
    frame = image(0)
    side = draw.evidence(frame, keyframe(frame, 3, 0), 120)
    stacked = draw.evidence(frame, keyframe(frame, 3, 0), 120, stacked=True)
    alone = draw.evidence(frame, keyframe(frame, 3, None), 120)
    assert side.shape[0] == 120 and side.shape[1] > 320
    assert stacked.shape[1] == 160 and stacked.shape[0] > 240
    assert alone.shape == side.shape


def test_map_without_odometry_is_left_out() -> None:
    unknown = np.full((3, 3), np.nan, np.float32)
    assert report_plots.keyframe_map(unknown, np.zeros((0, 2), np.int32)) is None
