"""What the viewers are given: every entity and every topic that they show is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import PERIOD, T0, cloud, forecast, image, keyframe, masks

from robot_perception.core.types import Scan
from robot_perception.pipeline import outputs, rerun_view
from robot_perception.pipeline.scoring import Score
from robot_perception.pipeline.settings import load_tasks

ROOT = Path(__file__).resolve().parents[1]


def test_rerun_gets_every_frame_and_result(tmp_path: Path) -> None:
    chunks = pytest.importorskip("rerun.chunk")
    path = tmp_path / "new" / "replay.rrd"
    with rerun_view.open_view(str(path)) as view:
        for i, match in enumerate((None, 0)):
            frame = image(i)
            rerun_view.show(view, frame, [masks(frame), keyframe(frame, i, match)])
            scan = Scan(frame.stamp_ns, "lidar", cloud())
            rerun_view.show(view, scan, [forecast(scan)])
        rerun_view.show_scores(view, [Score(T0, 0.1, 0.2, float("nan"))])
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["replay.rrd"]
    rows: dict[str, int] = {}
    stamps = set()
    for chunk in chunks.RrdReader(path).stream():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
        if "stamp" in chunk.timeline_names:
            stamps |= set(chunk.to_record_batch().column("stamp").cast("int64").to_pylist())
    assert rows.pop("/__properties")
    assert rows == {
        "/camera": 2, "/camera/image": 2, "/camera/segments": 2,
        "/lidar": 1, "/lidar/observed": 2, "/lidar/forecast/0.1s": 2, "/lidar/forecast/0.2s": 2,
        "/map": 1, "/map/keyframes": 2, "/map/revisits": 2,
        "/revisit/evidence": 1, "/plots/probability": 2, "/plots/chamfer/forecast/0.1s": 1,
    }  # fmt: skip
    assert stamps == {T0, T0 + PERIOD}
    (layout,) = chunks.RrdReader(path).blueprints()
    assert layout.application_id == "robot_perception"


def test_a_full_disk_ends_the_rerun_file_with_one_error(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    program = f"""
import resource
import numpy as np
from robot_perception.core.types import Scan
from robot_perception.pipeline.rerun_view import open_view, show
from robot_perception.pipeline.sinks import SinkError
xyz = np.random.default_rng(0).random((3000, 3), np.float32)
try:
    with open_view({str(tmp_path / "replay.rrd")!r}) as view:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
        for i in range(100):
            show(view, Scan(i, "lidar", xyz), [])
except SinkError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert "replay.part.rrd cannot be written: File too large" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["replay.part.rrd"]


@pytest.mark.parametrize(("where", "says"), [("rerun", "no display"), ("x.mcap", "NAME.rrd")])
def test_a_viewer_that_cannot_be_had(
    where: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rerun")
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=says), rerun_view.open_view(where):
        pass


def panels(layout: Any) -> Iterator[str]:
    """The panels of a Foxglove layout, which is a tree of splits."""
    if isinstance(layout, str):
        yield layout
    else:
        assert layout["direction"] in {"row", "column"}
        yield from (*panels(layout["first"]), *panels(layout["second"]))


def test_foxglove_shows_topics_that_exist() -> None:
    types = {
        f"/{task}/{topic.name}": topic.type
        for task, table in outputs.topics(load_tasks()).items()
        for topic in table
        if topic.recorded
    } | {"/image": outputs.IMAGE, "/points": outputs.CLOUD}
    document = json.loads((ROOT / "config" / "foxglove" / "perception.json").read_text())
    configurations = document["configById"]
    assert sorted(panels(document["layout"])) == sorted(configurations)
    for panel, configuration in configurations.items():
        kind = panel.partition("!")[0]
        if kind == "Image":
            assert types[configuration["imageMode"]["imageTopic"]] == outputs.IMAGE
        elif kind == "3D":
            shown = {types[topic] for topic in configuration["topics"]}
            assert shown == {outputs.CLOUD, "visualization_msgs/msg/MarkerArray"}
        elif kind == "Plot":
            assert {path["value"].partition(".")[0] for path in configuration["paths"]} <= set(
                types
            )
        else:
            assert (kind, configuration["topicToRender"]) == ("DiagnosticSummary", "/diagnostics")
