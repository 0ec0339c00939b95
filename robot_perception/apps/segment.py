"""`segment`: overlays, label images and a table of segments for every image of a recording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import Progress

from robot_perception.core.errors import InputRejected
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import ImageFrame, Segmentation
from robot_perception.pipeline.draw import overlay
from robot_perception.pipeline.perception import Tasks
from robot_perception.pipeline.sources import Recording, open_recording
from robot_perception.pipeline.sources.loaders import load_image


def segment(path: Path, tasks: Tasks, out: Path, console: Console) -> dict[str, Any]:
    """Write overlay_NNNNNN.jpg, labels_NNNNNN.png (16 bit) and segments.json into `out`.

    `path` is an image or a recording. Returns the summary that segments.json holds.
    """
    assert tasks.segmentation is not None
    segmenter = Segmenter(tasks.segmentation)
    out.mkdir(parents=True, exist_ok=True)
    is_image = path.suffix.lower() in (".png", ".jpg", ".jpeg")
    recording = None if is_image else open_recording(path)
    images: list[dict[str, Any]] = []
    rejected: list[str] = []
    with Progress(console=console) as progress:
        task = progress.add_task("segment", total=None)
        for frame in _frames(path, recording, rejected):
            try:
                result = segmenter.step(frame)
            except InputRejected as error:
                rejected.append(error.reason)
                continue
            _write(out, len(images), frame, result)
            images.append(_row(result))
            progress.advance(task)
    summary = {
        "backend": segmenter.backend,
        "images": images,
        "rejected": rejected,
        "damage": list(recording.damage) if recording else [],
    }
    (out / "segments.json").write_text(json.dumps(summary, indent=1))
    return summary


def _frames(path: Path, recording: Recording | None, rejected: list[str]) -> Iterator[ImageFrame]:
    """The one image or those of the recording; what cannot be read goes to `rejected`."""
    if recording is None:
        yield load_image(path, 0, "camera")
        return
    if "image" not in recording.roles:
        return
    for item in recording.frames({"image": recording.roles["image"]}):
        if isinstance(item.frame, ImageFrame):
            yield item.frame
        else:
            rejected.append(item.rejected or "no image")


def _write(out: Path, number: int, frame: ImageFrame, result: Segmentation) -> None:
    picture = cv2.cvtColor(overlay(frame.rgb, result.labels), cv2.COLOR_RGB2BGR)
    pictures = {f"overlay_{number:06d}.jpg": picture, f"labels_{number:06d}.png": result.labels}
    for name, array in pictures.items():
        if not cv2.imwrite(str(out / name), array):
            raise OSError(f"{out / name} cannot be written")


def _row(result: Segmentation) -> dict[str, Any]:
    table = [
        {
            "id": s.id,
            "area": s.area,
            "box": s.box,
            "predicted_iou": round(s.predicted_iou, 4),
            "stability": round(s.stability, 4),
        }
        for s in result.segments
    ]
    return {"stamp_ns": result.stamp_ns, "segments": table}
