"""Damaged recordings: read as far as they are whole, and never taken for whole ones."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from figures import cases, record
from mcap.writer import IndexType
from mcap.writer import Writer as RawMcapWriter
from rosbags.rosbag2 import StoragePlugin
from test_recordings import (
    FRAMES,
    WRITERS,
    assert_prefix,
    assert_same,
    fill,
    make_frames,
    topic_of,
    write_mcap,
    write_rosbag2,
    write_unchunked,
)
from test_wire_properties import valid

from robot_perception.apps.cli import main
from robot_perception.apps.info import DAMAGED, UNREADABLE, WHOLE, print_info
from robot_perception.core.types import Frame, Scan
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import Item, RecordingError, open_recording
from robot_perception.wire import encode_frame

KINDS: dict[str, Callable[[Path], Path]] = {
    "mcap": WRITERS["mcap"],
    "mcap without chunks": lambda p: write_unchunked(p / "u.mcap"),
    "sqlite3": WRITERS["sqlite3"],
    "ros1": WRITERS["ros1"],
}
# Thirty levels, each twice the one before: a gigabyte once it is written out as text.
BOMB = "\n".join(
    ["rosbag2_bagfile_information:", "    l0: &l0 [x, x]"]
    + [f"    l{i}: &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 31)]
)
BY_STAMP: dict[tuple[type, int], Frame] = {(type(f), f.stamp_ns): f for f in FRAMES}


def read(path: Path) -> tuple[list[Item], tuple[str, ...]] | None:
    """Items and damage; None where the recording is refused. Nothing else may be raised."""
    try:
        recording = open_recording(path)
        return list(recording.frames()), tuple(recording.damage)
    except RecordingError as error:
        assert str(error)
        return None


def info_code(path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    code = print_info(path, as_json=True)
    json.loads(capsys.readouterr().out)  # whatever was found, the output is JSON
    return code


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = KINDS[kind](tmp_path)
    data = whole.read_bytes()
    points = np.linspace(0, len(data) - 1, cases(12, 200)).astype(int)
    cut = tmp_path / f"cut{whole.suffix}"
    codes = {WHOLE: 0, DAMAGED: 0, UNREADABLE: 0}
    kept, slowest = [], 0.0
    for size in points:
        cut.write_bytes(data[:size])
        start = time.perf_counter()
        found = read(cut)
        slowest = max(slowest, time.perf_counter() - start)
        code = info_code(cut, capsys)
        codes[code] += 1
        if found is None:
            assert code == UNREADABLE
            continue
        items, damage = found
        assert damage and code == DAMAGED, f"cut at {size} of {len(data)}"
        assert_prefix(items, max(0, int(size / len(data) * len(FRAMES)) - 10))
        kept.append(len(items) / max(1, int(size / len(data) * len(FRAMES))))
    assert codes[WHOLE] == 0 and slowest < 10.0
    record(
        "recordings",
        f"{kind}: cut",
        "a whole prefix, the loss named, exit code 3 (or 2)",
        len(points),
        read_in_part=codes[DAMAGED],
        refused=codes[UNREADABLE],
        taken_for_whole=codes[WHOLE],
        slowest_s=round(slowest, 3),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What still comes is valid; where the storage has checksums, it is also what was recorded."""
    whole = KINDS[kind](tmp_path)
    data = whole.read_bytes()
    rng = np.random.default_rng(5)
    flipped = tmp_path / f"flipped{whole.suffix}"
    count, refused, named, unseen = cases(12, 200), 0, 0, 0
    for i in range(count):
        changed = bytearray(data)
        # Half of them in the structures at the start and at the end.
        low, high = ((0, 2000), (len(data) - 4000, len(data)), (0, len(data)))[i % 3]
        for at in rng.integers(max(0, low), high, 1 + i % 4):
            changed[at] ^= 1 << int(rng.integers(0, 8))
        flipped.write_bytes(changed)
        found = read(flipped)
        code = info_code(flipped, capsys)
        if found is None:
            refused += 1
            assert code == UNREADABLE
            continue
        items, damage = found
        named += bool(damage)
        assert (code == DAMAGED) >= bool(damage)
        for item in items:
            assert (item.frame is None) == bool(item.rejected)
            if item.frame is None:
                continue
            if not isinstance(item.frame, Scan):
                valid(item.frame, None)
            assert 0 < len(items) <= 2 * len(FRAMES)
            expected = BY_STAMP.get((type(item.frame), item.frame.stamp_ns))
            try:
                assert expected is not None
                assert_same(item.frame, expected)
            except (AssertionError, AttributeError):
                unseen += 1
                # MCAP's chunks carry checksums: nothing gets past them.
                assert kind != "mcap", (i, damage)
    record(
        "recordings",
        f"{kind}: one to four bits flipped",
        "valid frames, a counted rejection or a named loss"
        + ("; nothing changed gets through" if kind == "mcap" else ""),
        count,
        refused=refused,
        damage_named=named,
        changed_frames_without_checksum=unseen,
    )


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_metadata_of_every_wrong_kind(
    plugin: StoragePlugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_rosbag2(tmp_path / "bag", plugin)
    good = (bag / "metadata.yaml").read_text()
    bad = {
        "empty": "",
        "no mapping": "[1, 2]",
        "a scalar": "5",
        "no files": good.replace("relative_file_paths", "other"),
        "files are a number": "rosbag2_bagfile_information: {relative_file_paths: 3}",
        "files of other types": "rosbag2_bagfile_information: {relative_file_paths: [1, null, {}]}",
        "cut": good[: len(good) // 2],
        "binary": "\x00\x01\x02",
        "a YAML bomb": "a: &a [x, x]\nb: &b [*a, *a]\nrosbag2_bagfile_information: *b",
        "a tag that would run code": "!!python/object/apply:os.system ['touch planted']",
        "a bomb as the name of a file": BOMB + "\n    relative_file_paths: [*l30]",
        "a bomb as the compression": BOMB
        + "\n    relative_file_paths: [bag.x]\n    compression_mode: *l30",
        "a bomb as the format": BOMB
        + "\n    relative_file_paths: [bag.x]\n    compression_mode: file\n"
        + "    compression_format: *l30",
        "two documents": "a: 1\n---\nb: 2",
        "deeply nested": "[" * 3000,
        "a name of another place": good.replace("bag.", "../../../etc/bag."),
    }
    lost = 0
    for name, text in bad.items():
        (bag / "metadata.yaml").write_text(text)
        found = read(bag)
        code = info_code(bag, capsys)
        if found is None:
            assert code == UNREADABLE
            lost += 1
            continue
        items, damage = found
        if name != "a name of another place":
            assert damage and code == DAMAGED, name
        assert_prefix(items, len(FRAMES))
    (bag / "metadata.yaml").unlink()
    found = read(bag)
    assert found is not None and found[1] == ("metadata.yaml is missing",)
    assert_prefix(found[0], len(FRAMES))
    (bag / "metadata.yaml").write_bytes(b"\xff\xfe\x00")
    assert info_code(bag, capsys) == DAMAGED
    assert not Path("planted").exists()
    record(
        "recordings",
        f"rosbag2 {plugin.name.lower()}: metadata.yaml missing or of a wrong kind",
        "all messages, the fault named, exit code 3",
        len(bad) + 2,
        refused=lost,
        read=len(bad) + 2 - lost,
    )


def test_wrong_types_and_payloads(tmp_path: Path) -> None:
    """Topics whose messages are not what they are said to be are counted, the others are used."""
    names = ["image", "camera_info", "odom", "points"]
    swapped = dict(zip(names, [*names[1:], names[0]], strict=True))
    payload, types = {}, {}
    for frame in FRAMES[:4]:
        type_name, message = encode_frame(rosbags_factory, frame)
        key = topic_of(frame).rsplit("/", 1)[-1]
        types[key] = type_name
        payload[key] = message
    from robot_perception.pipeline.messages import serialize

    tried = rejected = 0
    for kind, other in swapped.items():
        with McapSink(tmp_path / "a.mcap") as sink:
            stamp = FRAMES[0].stamp_ns
            sink._write("/wrong", types[kind], serialize(payload[other]), stamp)
            sink._write("/wrong", types[kind], b"", stamp + 1)
            sink._write("/wrong", types[kind], bytes(3), stamp + 2)
            sink._write("/wrong", types[kind], b"\xff" * 5000, stamp + 3)
            sink.write("/wrong", types[kind], payload[kind], stamp + 4)
        found = read(tmp_path / "a.mcap")
        assert found is not None
        items, _ = found
        assert len(items) == 5
        tried += 4
        rejected += sum(item.frame is None for item in items[:4])
        assert items[4].frame is not None
        assert all(item.rejected for item in items[:4] if item.frame is None)
    assert rejected == tried
    record(
        "recordings",
        "Messages of another type than their topic",
        "each counted as rejected, the rest processed",
        tried,
        rejected=rejected,
    )


def test_without_an_index(tmp_path: Path) -> None:
    """ROS 1 bags of a recorder that was killed, databases whose index is gone, MCAP without one."""
    for number, options in enumerate(
        (
            {"index_types": IndexType.NONE, "use_statistics": False},
            {"index_types": IndexType.NONE, "use_summary_offsets": False, "repeat_channels": False}
            | {"repeat_schemas": False, "use_statistics": False},
        )
    ):
        path = tmp_path / f"{number}.mcap"
        with path.open("wb") as file:
            writer = RawMcapWriter(file, **options)
            fill(writer)
            writer.finish()
        found = read(path)
        assert found is not None
        assert_prefix(found[0], len(FRAMES))
    bag = WRITERS["ros1"](tmp_path)
    data = bytearray(bag.read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    data[at : at + 8] = struct.pack("<Q", 0)
    bag.write_bytes(data)
    found = read(bag)
    assert found is not None
    assert_prefix(found[0], len(FRAMES))
    assert any("index" in line for line in found[1])
    database = WRITERS["sqlite3"](tmp_path)
    with sqlite3.connect(database) as connection:
        names = [
            r[0]
            for r in connection.execute(
                "SELECT name FROM sqlite_master WHERE type='index' AND sql NOT NULL"
            )
        ]
        for name in names:
            connection.execute(f"DROP INDEX {name}")
    connection.close()
    found = read(database)
    assert found is not None
    assert_prefix(found[0], len(FRAMES))
    record("recordings", "Unindexed MCAP, ROS 1 bag and database", "all messages", 4, read=4)


def test_replay_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for a whole recording, 3 for a damaged one whose rest was processed, 2 for none."""
    whole = write_mcap(tmp_path / "a.mcap")
    data = whole.read_bytes()
    cut, none = tmp_path / "cut.mcap", tmp_path / "none.mcap"
    cut.write_bytes(data[: int(0.7 * len(data))])
    none.write_bytes(bytes(2000))
    out = tmp_path / "out.mcap"
    codes = {}
    for path in (whole, cut, none):
        arguments = ["replay", str(path), "--out", str(out), "--tasks", "segmentation", "--json"]
        codes[path.stem] = main(arguments)
        text = capsys.readouterr().out
        if path == none:
            continue
        summary = json.loads(text)
        assert bool(summary["damage"]) == (path == cut)
        for role in summary["accounting"].values():
            assert role["received"] == sum(
                role[k] for k in ("processed", "dropped", "rejected", "pending")
            )
        assert read(out) is not None
    assert codes == {"a": 0, "cut": 3, "none": 2}
    record("recordings", "Exit codes of replay: whole, cut, none", "0, 3, 2", 3, codes=codes)


def test_every_command_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut, none = (tmp_path / f"{name}.mcap" for name in ("whole", "cut", "none"))
    small = SimulatorConfig(duration_s=1.0, image_width=160, image_height=120, columns=256)
    write_recording(small, whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(0.9 * len(data))])
    none.write_bytes(data[:3])
    out = str(tmp_path / "out")
    commands = {
        "info": ["info", "--json"],
        "segment": ["segment", "--json", "--out", out],
        "evaluate forecast": ["evaluate", "forecast", "--method", "repeat"],
        "evaluate segmentation": ["evaluate", "segmentation"],
    }
    codes = {}
    for name, command in commands.items():
        at = 2 if name.startswith("evaluate") else 1
        for path in (whole, cut, none):
            codes[name, path.stem] = main([*command[:at], str(path), *command[at:]])
            said = capsys.readouterr()
            assert "Traceback" not in said.err
            if path == none:
                assert "error" in said.out + said.err
    assert codes == {
        (name, kind): code
        for name in commands
        for kind, code in (("whole", 0), ("cut", 3), ("none", 2))
    }
    record(
        "recordings",
        "Exit codes of info, segment, evaluate: whole, cut, none",
        "0, 3, 2",
        len(codes),
        wrong=0,
    )


def test_a_disk_that_fills_up_while_recording(tmp_path: Path) -> None:
    """The limit on file sizes stands for the full disk: one error, and what came before stays."""
    drive = write_mcap(tmp_path / "drive.mcap", make_frames(60))
    out = tmp_path / "out.mcap"
    write_mcap(out, FRAMES[:4])
    before = out.read_bytes()
    sizes = [int(s) for s in np.linspace(0.05, 0.9, cases(2, 10)) * drive.stat().st_size]
    readable = 0
    for size in sizes:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                with (tmp_path / "said").open("w") as said:
                    sys.stderr = sys.stdout = said
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
                    arguments = ["replay", str(drive), "--out", str(out), "--tasks", "segmentation"]
                    status = main(arguments)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        said_text = (tmp_path / "said").read_text()
        assert said_text.count("error:") == 1 and "Traceback" not in said_text
        assert "holds what came before" in said_text.replace("\n", " ")
        assert out.read_bytes() == before
        found = read(tmp_path / "out.part.mcap")
        assert found is not None and found[1]
        written = sum(item.frame is not None for item in found[0])
        # All but the last chunk of a megabyte.
        assert written >= (size - 1.1 * 2**20) / drive.stat().st_size * 4 * 60 * 0.5
        readable += written > 0
    record(
        "recordings",
        "Disk full while a replay is written",
        "one error, exit code 2; the old result stays, what was written is readable",
        len(sizes),
        with_messages_readable=readable,
    )
