"""The command line, and that README names only what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from robot_perception.apps.cli import main
from robot_perception.pipeline.settings import load_tasks
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    write_recording(SimulatorConfig(duration_s=1.2), path)
    return path


def commands() -> list[list[str]]:
    """The shell lines of README's code blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = (line.split("#")[0].strip() for block in blocks for line in block.splitlines())
    return [shlex.split(line) for line in lines if line]


def test_readme_names_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [words for words in commands() if words[0] == "robot-perception"]
    assert len(ours) >= 4
    for words in ours:
        names = [w for w in words[1:] if not w.startswith("-") and w.islower()]
        group = names[0] in ("evaluate", "forecast", "revisit", "weights")
        assert main([*names[: 2 if group else 1], "--help"]) == 0
        text = capsys.readouterr().out
        for option in (w for w in words if w.startswith("--")):
            assert option in text, words


def test_readme_names_make_targets_and_launch_files_that_exist() -> None:
    for words in commands():
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        if words[:2] == ["ros2", "launch"]:
            text = (ROOT / "launch" / words[3]).read_text()
            arguments = text + (ROOT / "robot_perception" / "ros" / "launching.py").read_text()
            for argument in words[4:]:
                name = argument.split(":=")[0]
                topic = name.removesuffix("_topic")
                assert f'"{name}"' in arguments or f'"{topic}"' in arguments, name


def test_info_replay_and_evaluate(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(drive), "--json"]) == 0
    topics = {t["name"]: t for t in json.loads(capsys.readouterr().out)["topics"]}
    assert topics["/points"]["count"] == 12

    out = tmp_path / "out.mcap"
    assert main(["replay", str(drive), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["accounting"]["image"]["processed"] == 12
    assert summary["results"]["forecast"] == 11
    assert out.stat().st_size > 0 and Path(summary["report"]).stat().st_size > 0

    scores = tmp_path / "scores.json"
    names = ("repeat", "ego_warp", "ours")
    wanted = [word for name in names for word in ("--method", name)]
    assert main(["evaluate", "forecast", str(drive), *wanted, "--json", str(scores)]) == 0
    methods = json.loads(scores.read_text())["methods"]
    assert set(methods) == set(names)
    assert len(methods["ego_warp"]["chamfer_m2"]) == 5
    assert methods["ego_warp"]["chamfer_mean_m2"] < methods["repeat"]["chamfer_mean_m2"]


def test_segment_writes_pictures_and_a_table(drive: Path, tmp_path: Path) -> None:
    assert main(["segment", str(drive), "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "segments.json").read_text())
    assert len(table["images"]) == 12 == len(list(tmp_path.glob("labels_*.png")))
    assert table["backend"] == "embedded:felzenszwalb"


def test_mistakes_get_one_clear_line(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, hint in (
        (["replay", "/nowhere", "--out", str(tmp_path / "a.mcap")], "nowhere"),
        (["replay", str(drive), "--out", str(tmp_path / "a.txt")], ".mcap"),
        (["replay", str(drive), "--out", "a.mcap", "--set", "forecast.bogus=1"], "bogus"),
        (["segment", str(drive), "--out", "x", "--set", "segmentation.backend=sam"], "checkpoint"),
        (["frobnicate"], "frobnicate"),
    ):
        assert main(arguments) == 2, arguments
        err = capsys.readouterr().err
        assert hint in err and "Traceback" not in err


def test_out_of_gpu_memory_gets_one_clear_line(
    drive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("robot_perception.apps.evaluate.evaluate", full)
    assert main(["evaluate", "forecast", str(drive)]) == 2
    assert "error: out of memory: CUDA out of memory" in " ".join(capsys.readouterr().err.split())


def test_a_damaged_recording_is_read_as_far_as_it_is_whole(drive: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    data = drive.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    assert main(["replay", str(cut), "--out", str(tmp_path / "out.mcap")]) == 3


def test_settings_come_from_the_nodes_parameter_file() -> None:
    tasks = load_tasks(ROOT / "config" / "perception.yaml", ["forecast.horizons=3"], ["forecast"])
    assert tasks.forecast is not None and tasks.forecast.horizons == 3
    assert tasks.segmentation is None
    for wrong in ("forecast.horizons=0", "forecast.horizons=many", "horizons", "x.y=1"):
        with pytest.raises(ValueError):
            load_tasks(None, [wrong])


def test_doctor_finds_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    assert {"gpu", "rclpy", "transport"} <= {c["name"] for c in json.loads(capsys.readouterr().out)}
