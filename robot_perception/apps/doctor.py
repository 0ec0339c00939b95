"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Check:
    """One finding. `good` is None where a thing is merely absent and not needed."""

    name: str
    good: bool | None
    finding: str


def checks() -> list[Check]:
    """All findings, most basic first."""
    found = [
        Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        Check("cpu", True, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"),
        _gpu(),
    ]
    found += [_module(name, needed) for name, needed in _MODULES]
    found.append(_transport())
    return found


_MODULES = (
    ("cv2", True),
    ("open3d", True),
    ("faiss", True),
    ("rosbags", True),
    ("mcap", True),
    ("small_gicp", True),
    ("rclpy", False),
    ("sensor_msgs", False),
    ("vision_msgs", False),
    ("tf2_msgs", False),
    ("launch_ros", False),
)


def _gpu() -> Check:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("gpu", True, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    return Check("gpu", None, "none that torch can use: everything runs on the CPU")


def _module(name: str, needed: bool) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name, False if needed else None, "not installed")
    try:
        return Check(name, True, importlib.metadata.version(name.replace("_", "-")))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, True, "installed")


def _transport() -> Check:
    """Large messages need a larger shared-memory segment than Fast DDS gives by default."""
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        return Check("transport", None, f"{os.environ['RMW_IMPLEMENTATION']}: not checked")
    if profile is None:
        hint = "set FASTDDS_DEFAULT_PROFILES_FILE to config/fastdds.xml (the launch files do)"
        return Check("transport", None, f"large messages may be lost; {hint}")
    there = os.path.isfile(profile)
    return Check("transport", there, profile if there else f"{profile} does not exist")


def print_doctor(as_json: bool) -> int:
    """Print the findings; 0 if all that is needed works."""
    found = checks()
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
    else:
        table = Table()
        for column in ("check", "", "finding"):
            table.add_column(column)
        for check in found:
            mark = {True: "[green]ok[/green]", False: "[red]missing[/red]", None: "-"}[check.good]
            table.add_row(check.name, mark, check.finding)
        Console().print(table)
    return 1 if any(check.good is False for check in found) else 0
