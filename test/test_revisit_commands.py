"""`revisit fit | calibrate | merge` and `evaluate revisit`, on places that are drawn."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_revisit import place

from robot_perception.apps.cli import main
from robot_perception.pipeline.places import open_walks
from robot_perception.pipeline.sources import RecordingError

torch.set_num_threads(1)
SETTINGS = ["revisit.keyframe_period_s=0", "revisit.keyframe_distance_m=0"]
SETTINGS += ["revisit.exclude_recent_s=0.2", "revisit.fit_keyframes=4"]
SET = [word for setting in SETTINGS for word in ("--set", setting)]
# A way past eight places, four of them a second time, and three that are new.
SEEDS = [0, 1, 2, 3, 4, 5, 6, 7, 31, 1, 2, 32, 3, 33, 4]


def picture(path: Path, seed: int, shift: int) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(place(seed, shift), cv2.COLOR_RGB2BGR))


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with poses, ten metres from place to place, as 7-Scenes has them."""
    path = tmp_path_factory.mktemp("way")
    for i, seed in enumerate(SEEDS):
        picture(path / f"frame-{i:06d}.color.png", seed, 2 * (i > 7))
        pose = np.eye(4)
        pose[0, 3] = 10.0 * seed
        np.savetxt(path / f"frame-{i:06d}.pose.txt", pose)
    return path


@pytest.fixture(scope="module")
def vocabulary(way: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "places.safetensors"
    fitted = ["revisit", "fit", str(way), "--out", str(path), "--images", "6"]
    assert main([*fitted, "--set", "revisit.vocabulary_size=8"]) == 0
    return path


def test_fit_calibrate_evaluate(
    way: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = tmp_path / "calibrated.safetensors"
    named = ["--vocabulary", str(vocabulary), *SET]
    command = ["revisit", "calibrate", str(way), "--precision", "0.95", "--out", str(calibrated)]
    assert main([*command, *named, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["precision"] == 1.0 and result["recall"] == 1.0 and result["accepted"] == 4
    # Four decisions promise little: at least 0.05 ** (1 / 4).
    assert result["precision_at_least_95"] == pytest.approx(0.4729, abs=1e-3)
    assert Path(result["plot"]).stat().st_size > 0

    named[1] = str(calibrated)
    assert main(["evaluate", "revisit", str(way), "--out", str(tmp_path), *named]) == 0
    document = json.loads((tmp_path / "revisit.json").read_text())
    assert document["protocol"]["right_within_m"] == 0.5
    assert document["methods"]["ours"]["recall_at_100_precision"] == 1.0
    assert document["methods"]["sad"]["queries_with_positive"] == 4
    decisions = document["decisions"]
    assert decisions["threshold"] == pytest.approx(result["calibration"]["threshold"])
    assert (decisions["right"], decisions["wrong"]) == (4, 0)
    assert (tmp_path / "precision_recall.png").stat().st_size > 0


def test_two_walks_are_evaluated(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, seed in enumerate((0, 1, 2, 3)):
        picture(tmp_path / "ref" / f"{i:04d}.png", seed, 0)
    for i, seed in enumerate((2, 0)):
        picture(tmp_path / "query" / f"{i:04d}.png", seed, 8)
    truth = np.array([[0, [2]], [1, [0, 1]]], object)
    np.save(tmp_path / "ground_truth.npy", truth, allow_pickle=True)
    scores = tmp_path / "scores.json"
    named = ["--vocabulary", str(vocabulary), "--json", str(scores)]
    assert main(["evaluate", "revisit", str(tmp_path), *named]) == 0
    methods = json.loads(scores.read_text())["methods"]
    assert methods["segvlad_embedded:xfeat"]["recall@1"] == methods["ours"]["recall@1"] == 1.0
    np.save(tmp_path / "ground_truth.npy", truth[:1], allow_pickle=True)
    assert main(["evaluate", "revisit", str(tmp_path), *named]) == 2
    assert "2 queries" in capsys.readouterr().err


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/robot_perception_was_here"),)


def test_a_hostile_truth_runs_nothing(tmp_path: Path) -> None:
    for name in ("query", "ref"):
        picture(tmp_path / name / "0.png", 0, 0)
    truth = tmp_path / "ground_truth.npy"
    np.save(truth, np.array([[0, _Hostile()]], object), allow_pickle=True)
    for content in (truth.read_bytes(), b"", b"\x93NUMPY", pickle.dumps([1])):
        truth.write_bytes(content)
        with pytest.raises(RecordingError, match="ground truth"):
            open_walks(tmp_path)
    assert not Path("/tmp/robot_perception_was_here").exists()


def test_mistakes_get_one_clear_line(
    way: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images" / "0.png", 0, 0)
    for arguments, hint in (
        (["evaluate", "revisit", str(tmp_path / "images")], "no odometry or poses"),
        (["revisit", "calibrate", str(way)], "--out"),
        (["evaluate", "revisit", str(way), "--vocabulary", "/nowhere"], "/nowhere"),
        (["revisit", "merge", str(vocabulary), str(vocabulary), "--out", "x"], "is no"),
    ):
        assert main(arguments) == 2, arguments
        err = capsys.readouterr().err
        assert hint in err.replace("\n", " ") and "Traceback" not in err
