"""Out of memory and a lost device, by fault injection on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from figures import record
from test_revisit import QUICK, place

from robot_perception.core.config import ForecastConfig, SegmentationConfig
from robot_perception.core.types import ImageFrame, Scan
from robot_perception.pipeline.devices import DeviceFault, DeviceGuard, fault_of
from robot_perception.pipeline.perception import Pipeline, Tasks

MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
LOST = RuntimeError("CUDA error: an illegal memory access was encountered")


def failing(times: int, error: Exception, step: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, but for the first calls, which raise."""
    calls = iter([error] * times)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for planted in calls:
            raise planted
        return step(*args, **kwargs)

    return wrapped


def image(i: int) -> ImageFrame:
    return ImageFrame((i + 1) * 4_000_000_000, "camera", place(i))


def scan(i: int) -> Scan:
    rng = np.random.default_rng(0)
    azimuth, elevation = rng.uniform(-np.pi, np.pi, 5000), rng.uniform(-0.4, 0.05, 5000)
    wall = 10.0 / np.maximum(np.abs(np.cos(azimuth)), np.abs(np.sin(azimuth)))
    xyz = np.stack([wall * np.cos(azimuth), wall * np.sin(azimuth), wall * np.tan(elevation)], 1)
    return Scan((i + 1) * 100_000_000, "velodyne", xyz.astype(np.float32))


def test_which_errors_are_the_device_s() -> None:
    assert fault_of(MEMORY) == "out of memory"
    assert fault_of(MemoryError()) == "out of memory"
    assert fault_of(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == "out of memory"
    assert fault_of(LOST) == "device lost"
    assert fault_of(RuntimeError("shapes cannot be multiplied")) is None
    with pytest.raises(RuntimeError, match="size of tensor"):
        DeviceGuard("cpu").run("a", lambda: torch.ones(2) + torch.ones(3), lambda: None)


def test_order_of_the_remedies() -> None:
    """Free and once more; smaller batches while there are any; the CPU; then the frame is gone."""
    done: list[str] = []
    batches = iter([True, True, False, False])

    def smaller() -> bool:
        possible = next(batches, False)
        if possible:
            done.append("smaller")
        return possible

    guard = DeviceGuard("cpu")
    step = failing(4, MEMORY, lambda: done.append("step"))
    guard.run("stage", step, lambda: done.append("cpu"), smaller)
    assert done == ["smaller", "smaller", "cpu", "step"]
    assert guard.counts() == {
        "stage: out of memory": 4,
        "stage: tried again": 1,
        "stage: smaller batch": 2,
        "stage: moved to the CPU": 1,
    }
    # On the CPU there is nothing left to move to, and it does not go on for ever.
    with pytest.raises(DeviceFault, match="out of memory"):
        guard.run("stage", failing(9, MEMORY, lambda: None), lambda: done.append("again"))
    assert "again" not in done


@pytest.mark.parametrize("policy", ["drop", "cpu"])
@pytest.mark.parametrize("fault", [MEMORY, LOST], ids=["out_of_memory", "device_lost"])
def test_every_stage_outlives_its_device(policy: str, fault: Exception) -> None:
    pipeline = Pipeline(
        Tasks(SegmentationConfig(device="cpu"), QUICK, ForecastConfig(columns=512, device="cpu")),
        on_device_fault=policy,
    )
    assert pipeline.segmenter and pipeline.detector and pipeline.forecaster
    for i in range(4):
        pipeline.step(image(i))
    pipeline.step(scan(0))
    keyframes = len(pipeline.detector.keyframes)
    assert keyframes == 4
    tried = given_up = 0
    for name, frame_of, start in (
        ("segmenter", image, 4),
        ("detector", image, 14),
        ("forecaster", scan, 1),
    ):
        # One failure is outlived out of memory; four are not, but for a change of device.
        for times, i in ((1, start), (4, start + 1)):
            stage = getattr(pipeline, name)
            stage.step = failing(times, fault, type(stage).step.__get__(stage))
            tried += 1
            try:
                pipeline.step(frame_of(i))
            except DeviceFault:
                given_up += 1
            vars(getattr(pipeline, name)).pop("step", None)
        assert pipeline.step(frame_of(start + 2)) or name == "forecaster"
        assert pipeline.step(frame_of(start + 3))  # as if nothing had been
    assert len(pipeline.detector.keyframes) > keyframes  # the map stayed
    counts = pipeline.guard.counts()
    assert sum(n for k, n in counts.items() if "given up" in k) == given_up
    for stage in ("segmentation", "revisit", "forecast"):
        assert any(k.startswith(stage) for k in counts)
        assert (f"{stage}: moved to the CPU" in counts) == (policy == "cpu")
    if policy == "drop":
        assert given_up == (3 if fault is MEMORY else 6)
    record(
        "devices",
        f"{'Out of memory' if fault is MEMORY else 'Device lost'}, policy {policy} (injected)",
        "the next frame is processed; the fault in diagnostics",
        tried,
        frames_given_up=given_up,
        counted={k: v for k, v in counts.items() if "given up" not in k},
    )


def test_a_failed_forecast_leaves_no_trace() -> None:
    """The retry of a step of several parts gives what the step would have given at once."""
    config = ForecastConfig(columns=512, device="cpu")
    plain, faulty = (Pipeline(Tasks(forecast=config)) for _ in range(2))
    assert faulty.forecaster
    for i in range(4):
        expected = plain.step(scan(i))
        if i == 2:
            inner = faulty.forecaster._chosen
            faulty.forecaster._chosen = failing(1, MEMORY, inner)  # type: ignore[method-assign]
        found = faulty.step(scan(i))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.range_images, b.range_images)
    assert faulty.guard.counts()["forecast: tried again"] == 1
