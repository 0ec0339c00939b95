"""Out of memory and a lost device, on a GPU that really has no memory left, or really is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from figures import record
from test_devices import image, scan

from robot_perception.core.config import ForecastConfig, SegmentationConfig
from robot_perception.core.segmentation.sam import build
from robot_perception.pipeline.devices import DeviceFault
from robot_perception.pipeline.perception import Pipeline, Tasks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

FORECAST = ForecastConfig(columns=512, device="cuda")


def all_memory() -> list[torch.Tensor]:
    """Tensors that leave nothing of the GPU's memory."""
    torch.cuda.empty_cache()
    taken = []
    size = torch.cuda.mem_get_info()[0]
    while size > 2**19:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return taken


@pytest.mark.parametrize("policy", ["drop", "cpu"])
def test_a_full_gpu(policy: str, tmp_path: Path) -> None:
    torch.save(build("vit_b").state_dict(), tmp_path / "sam.pth")
    segmentation = SegmentationConfig(
        backend="sam", model="vit_b", checkpoint=str(tmp_path / "sam.pth"), device="cuda",
        points_per_side=8,
    )  # fmt: skip
    pipeline = Pipeline(Tasks(segmentation, None, FORECAST), on_device_fault=policy)
    for i in range(3):
        pipeline.step(scan(i))
        pipeline.step(image(i))
    taken, tried, given_up = all_memory(), 0, 0
    for i in range(3, 6):
        for frame in (scan(i), image(i)):
            tried += 1
            try:
                pipeline.step(frame)
            except DeviceFault as error:
                assert "out of memory" in str(error)
                given_up += 1
    del taken
    torch.cuda.empty_cache()
    for frame in (scan(6), scan(7), image(6)):
        assert pipeline.step(frame)
    counts = pipeline.guard.counts()
    assert sum(n for k, n in counts.items() if "given up" in k) == given_up
    for stage in ("forecast", "segmentation"):
        assert counts[f"{stage}: tried again"] >= 1
        assert (f"{stage}: moved to the CPU" in counts) == (policy == "cpu")
    if policy == "drop":
        assert given_up == tried
    record(
        "devices",
        f"Out of memory, policy {policy} (real)",
        "the next frame is processed; the fault in diagnostics",
        tried,
        gpu=torch.cuda.get_device_name(),
        frames_given_up=given_up,
        counted={k: v for k, v in counts.items() if "given up" not in k},
    )


_LOSE = """
import json, sys
import torch
from test_devices import scan
from robot_perception.core.config import ForecastConfig
from robot_perception.pipeline.devices import DeviceFault
from robot_perception.pipeline.perception import Pipeline, Tasks

forecast = ForecastConfig(columns=512, device="cuda")
pipeline = Pipeline(Tasks(forecast=forecast), on_device_fault=sys.argv[1])
made = [len(pipeline.step(scan(i))) for i in range(3)]
try:  # no later work of this process on the GPU succeeds
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except RuntimeError:
    pass
given_up = 0
for i in range(3, 8):
    try:
        made.append(len(pipeline.step(scan(i))))
    except DeviceFault as error:
        assert "device lost" in str(error), error
        given_up += 1
print(json.dumps({"made": made, "given_up": given_up, "counts": pipeline.guard.counts()}))
"""


@pytest.mark.parametrize("policy", ["drop", "cpu"])
def test_a_lost_gpu(policy: str) -> None:
    """A failed assertion on the device loses it for the process, which goes on, and ends well."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOSE, policy],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    moved = policy == "cpu"
    assert found["counts"].get("forecast: moved to the CPU", 0) == moved
    assert found["given_up"] == (0 if moved else 5)
    if moved:  # one scan to begin anew
        assert found["made"][-4:] == [1, 1, 1, 1]
    record(
        "devices",
        f"Device lost, policy {policy} (real)",
        "the process goes on and ends well; the fault in diagnostics",
        5,
        gpu=torch.cuda.get_device_name(),
        frames_given_up=found["given_up"],
        counted={k: v for k, v in found["counts"].items() if "given up" not in k},
    )
