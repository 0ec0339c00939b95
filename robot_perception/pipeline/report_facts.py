"""What a reader of a report must know: the machine it was made on, and what each backend is."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch


def notes(backends: Mapping[str, object]) -> list[str]:
    """What a reader must know about each backend before trusting its results."""
    name = {task: str(backend) for task, backend in backends.items()}
    found = []
    if "embedded" in name.get("segmentation", ""):
        found.append(
            "Segmentation ran its embedded backend, which needs no checkpoint. Its masks are not "
            "those of Segment Anything; load an official checkpoint (backend sam) for these."
        )
    if "embedded" in name.get("revisit", ""):
        found.append(
            "Revisit detection ran its embedded local features, not DINO or DINOv2 features; load "
            "an official checkpoint (backend dino) for these."
        )
    if "ego_warp" in name.get("forecast", ""):
        found.append(
            "The forecast is a geometric ego-warp: the last scan seen from where the sensor is "
            "expected at constant velocity. It learns nothing and takes the world to stand still, "
            "so other traffic is predicted to stay where it was."
        )
    if "ours" in name.get("forecast", ""):
        found.append(
            "The forecast network chooses among measured points. Unless given other weights, it has "
            "learnt from simulated drives alone; it scores itself as the scans arrive and leaves "
            "the answer to geometry where that has been better."
        )
    found += [
        f"The {task} backend calls itself untrained ({backend}): its results mean nothing yet."
        for task, backend in name.items()
        if "untrained" in backend.lower()
    ]
    return found


def machine() -> dict[str, str]:
    """What the replay ran on, and with which versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    with contextlib.suppress(ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        cpu += f", {memory:.0f} GiB"
    try:
        version = metadata.version("robot_perception")
    except metadata.PackageNotFoundError:
        version = "not installed (source tree)"
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "GPU": gpu,
        "System": platform.platform(terse=True),
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "robot_perception": version,
    }
