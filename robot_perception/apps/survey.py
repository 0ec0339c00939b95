"""`robot-perception doctor RECORDING`: what to expect on a robot, and how to configure it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robot_perception.pipeline.settings import configured
from robot_perception.pipeline.sources import open_recording
from robot_perception.pipeline.survey import Survey, expectations, proposal, survey


def print_survey(path: Path, out: Path | None, as_json: bool) -> int:
    """Print what was found, write the proposed parameters to `out`; 0 if anything works."""
    recording = open_recording(path)
    found = survey(recording)
    proposed = proposal(found)
    expected = list(expectations(found, configured(proposed)))
    if out:
        out.write_text(parameter_file(proposed, path))
    facts = dict(_facts(found))
    if as_json:
        document = {
            "recording": str(path),
            "facts": facts,
            "parameters": proposed,
            "abilities": [asdict(e) for e in expected],
        }
        print(json.dumps(document))
        return 0 if any(e.works for e in expected) else 1
    console = Console(highlight=False)
    table = Table("", "found", title=escape(str(path)))
    for name, text in facts.items():
        table.add_row(name, escape(text))
    console.print(table)
    table = Table("ability", "", "on this robot", "ms a frame, here")
    for e in expected:
        mark = "[green]yes[/green]" if e.works else "[red]no[/red]"
        table.add_row(e.ability, mark, escape(e.finding), "" if e.ms is None else f"{e.ms:.0f}")
    console.print(table)
    if out:
        console.print(f"parameters: {escape(str(out))}, for replay --config and for launch:")
    elif proposed:
        console.print(f"\n{escape(parameter_file(proposed, path))}", soft_wrap=True)
    console.print(escape(_launch(found, out)), soft_wrap=True)
    return 0 if any(e.works for e in expected) else 1


def parameter_file(proposed: dict[str, Any], path: Path) -> str:
    """A ROS parameter file for `--config` and `config_file:=`."""
    tree: dict[str, dict[str, Any]] = {}
    for name, value in proposed.items():
        task, _, key = name.partition(".")
        tree.setdefault(task, {})[key] = value
    document = {"/**": {"ros__parameters": tree}}
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=96)
    return f"# Proposed by robot-perception doctor from {path.name}.\n{text}"


def _facts(found: Survey) -> list[tuple[str, str]]:
    facts = [(role, topic) for role, topic in found.roles.items()]
    if found.images:
        height, width = found.images[0].rgb.shape[:2]
        rate = "" if found.image_hz is None else f" at {found.image_hz:.1f} Hz"
        facts.append(("camera", f"{width} x {height}{rate}"))
        if found.camera is None:
            facts.append(("intrinsics", "none recorded"))
        else:
            k = found.camera.k
            text = f"f {k[0, 0]:.1f}, {k[1, 1]:.1f} px; centre {k[0, 2]:.1f}, {k[1, 2]:.1f} px"
            distorted = bool(np.any(found.camera.d != 0))
            facts.append(("intrinsics", text + ("; distorted" if distorted else "")))
    if found.scans:
        points = np.mean([len(scan.xyz) for scan in found.scans])
        rate = "" if found.scan_hz is None else f" at {found.scan_hz:.1f} Hz"
        fields = [
            n for n in ("intensity", "ring", "time_s") if getattr(found.scans[0], n) is not None
        ]
        facts.append(("LiDAR", f"{points:.0f} points a scan{rate}; {', '.join(fields) or 'x y z'}"))
    pattern = found.pattern
    if pattern is not None:
        facts.append(("field of view", f"{360 * pattern.azimuth_share:.0f} degrees around"))
    if pattern is not None and pattern.beams:
        top, bottom = np.rad2deg(pattern.elevations_rad[[0, -1]])
        how = "by their ring" if pattern.by_ring else "by their elevation or order"
        text = f"{pattern.beams} ({how}), from {top:.1f} down to {bottom:.1f} degrees"
        facts += [("beams", text), ("range image", f"{pattern.beams} x {pattern.columns}")]
    elif pattern is not None:
        facts.append(("beams", "none: the points do not lie on beams"))
    return facts + [("rejected", f"{count} x {reason}") for reason, count in found.rejected.items()]


def _launch(found: Survey, out: Path | None) -> str:
    names = {"image": "image_topic", "camera_info": "camera_info_topic", "points": "points_topic",
             "odom": "odom_topic"}  # fmt: skip
    arguments = [f"{names[r]}:={t}" for r, t in found.roles.items() if r in names]
    arguments += [f"config_file:={out.resolve()}"] if out else []
    return " ".join(["ros2 launch robot_perception perception.launch.py", *arguments])
