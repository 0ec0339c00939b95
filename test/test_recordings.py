"""Recordings in and out: the same frames from every storage, and what is left of damaged ones."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as RawMcapWriter
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from robot_perception.apps.info import print_info
from robot_perception.core.types import CameraInfo, Frame, ImageFrame, Odometry, Scan
from robot_perception.pipeline.messages import TYPESTORE, rosbags_factory
from robot_perception.pipeline.recording_info import describe
from robot_perception.pipeline.sinks import McapSink, SinkError
from robot_perception.pipeline.sources import Item, RecordingError, open_recording
from robot_perception.wire import encode_frame

NOETIC = get_typestore(Stores.ROS1_NOETIC)
TOPICS = {Odometry: "/odom", CameraInfo: "/cam/camera_info", ImageFrame: "/cam/image"}
STRING = "std_msgs/msg/String"


def make_frames(count: int = 12) -> list[Frame]:
    rng = np.random.default_rng(3)
    frames: list[Frame] = []
    for i in range(count):
        stamp = 1_700_000_000_000_000_000 + i * 100_000_000
        pose = np.eye(4)
        pose[:3, 3] = (i, 0.5, 0.0)
        rgb = rng.integers(0, 255, (48, 64, 3), np.uint8)
        xyz = rng.normal(size=(3000, 3)).astype(np.float32)
        k = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
        frames += [
            Odometry(stamp, "odom", "base_link", pose),
            CameraInfo(stamp, "camera", 64, 48, k, np.zeros(5)),
            ImageFrame(stamp, "camera", rgb),
            Scan(stamp, "velodyne", xyz, rng.random(3000).astype(np.float32)),
        ]
    return frames


FRAMES = make_frames()


def topic_of(frame: Frame) -> str:
    return TOPICS.get(type(frame), "/points")


def write_mcap(path: Path, frames: Sequence[Frame] = FRAMES) -> Path:
    with McapSink(path) as sink:
        for frame in frames:
            name, message = encode_frame(rosbags_factory, frame)
            sink.write(topic_of(frame), name, message, frame.stamp_ns)
    return path


def write_rosbag2(
    path: Path, plugin: StoragePlugin, mode: CompressionMode = CompressionMode.NONE
) -> Path:
    writer = Writer2(path, version=9, storage_plugin=plugin)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for frame in FRAMES:
            name, message = encode_frame(rosbags_factory, frame)
            topic = topic_of(frame)
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=TYPESTORE)
            data = TYPESTORE.serialize_cdr(message, name)
            writer.write(connections[topic], frame.stamp_ns, data)
    return path


def write_ros1(path: Path, chunk_bytes: int = 50_000) -> Path:
    writer = Writer1(path)
    writer.chunk_threshold = chunk_bytes
    writer.set_compression(Writer1.CompressionFormat.LZ4)
    with writer:
        connections = {}
        for frame in FRAMES:
            name, message = encode_frame(rosbags_factory, frame)
            topic = topic_of(frame)
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=NOETIC)
            data = TYPESTORE.cdr_to_ros1(TYPESTORE.serialize_cdr(message, name), name)
            # By ROS 1's own definition, in which a header has a sequence number.
            data = NOETIC.serialize_ros1(NOETIC.deserialize_ros1(data, name), name)
            writer.write(connections[topic], frame.stamp_ns, data)
    return path


def write_unchunked(path: Path) -> Path:
    """As the fast recording profile of rosbag2 writes: neither chunks nor a summary."""
    with path.open("wb") as file:
        writer = RawMcapWriter(file, use_chunking=False, compression=CompressionType.NONE)
        fill(writer)
        writer.flush()
    return path


def fill(writer: RawMcapWriter) -> None:
    """All frames, by the library's own writer."""
    writer.start(profile="ros2")
    channels = {}
    for frame in FRAMES:
        name, message = encode_frame(rosbags_factory, frame)
        if name not in channels:
            text = TYPESTORE.generate_msgdef(name, ros_version=2)[0].encode()
            schema = writer.register_schema(name, "ros2msg", text)
            channels[name] = writer.register_channel(topic_of(frame), "cdr", schema)
        data = bytes(TYPESTORE.serialize_cdr(message, name))
        writer.add_message(channels[name], frame.stamp_ns, data, frame.stamp_ns)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mcap": lambda p: write_mcap(p / "a.mcap"),
    "rosbag2 mcap": lambda p: write_rosbag2(p / "bag", StoragePlugin.MCAP),
    "rosbag2 sqlite3": lambda p: write_rosbag2(p / "bag", StoragePlugin.SQLITE3),
    "ros1": lambda p: write_ros1(p / "a.bag"),
    "sqlite3": lambda p: next(write_rosbag2(p / "bag", StoragePlugin.SQLITE3).glob("*.db3")),
}


def assert_same(frame: Frame | None, expected: Frame) -> None:
    assert type(frame) is type(expected)
    for name in expected.__dataclass_fields__:
        a, b = getattr(frame, name), getattr(expected, name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name


def assert_prefix(items: Sequence[Item], at_least: int, at_most: int = len(FRAMES)) -> None:
    """The first frames of the recording, each whole and right."""
    assert at_least <= len(items) <= at_most
    for item, expected in zip(items, FRAMES, strict=False):
        assert_same(item.frame, expected)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_storage_gives_the_same_frames(kind: str, tmp_path: Path) -> None:
    recording = open_recording(WRITERS[kind](tmp_path))
    calls: list[tuple[int, int | None]] = []
    items = list(recording.frames(progress=lambda done, total: calls.append((done, total))))
    assert recording.kind == kind
    assert_prefix(items, len(FRAMES))
    assert [item.stamp_ns for item in items] == [frame.stamp_ns for frame in FRAMES]
    assert {item.topic for item in items} == {"odom", "camera_info", "image", "points"}
    assert calls[-1] == (len(FRAMES), len(FRAMES))
    assert not recording.damage
    assert {t.name: t.count for t in recording.topics} == dict.fromkeys(
        (*TOPICS.values(), "/points"), 12
    )
    assert_prefix(list(recording.frames()), len(FRAMES))  # a second time


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_rosbag2(mode: CompressionMode, tmp_path: Path) -> None:
    recording = open_recording(write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3, mode))
    assert_prefix(list(recording.frames()), len(FRAMES))
    assert not recording.damage


def test_chosen_topics(tmp_path: Path) -> None:
    recording = open_recording(write_mcap(tmp_path / "a.mcap"))
    items = list(recording.frames({"points": "/points"}))
    assert [item.topic for item in items] == ["points"] * 12
    for wrong in ({"points": "/none"}, {"points": "/cam/image"}, {"sound": "/points"}):
        with pytest.raises(RecordingError):
            recording.frames(wrong)


def test_roles_prefer_the_camera_over_what_is_derived_from_it(tmp_path: Path) -> None:
    with McapSink(tmp_path / "a.mcap") as sink:
        for i, topic in enumerate(["/depth/image", "/depth/image", "/b/image", "/b/camera_info"]):
            frame = FRAMES[1] if topic.endswith("info") else FRAMES[2]
            name, message = encode_frame(rosbags_factory, frame)
            sink.write(topic, name, message, 1000 + i)
            if topic == "/b/camera_info":
                sink.write("/a/camera_info", name, message, 1000)
    roles = open_recording(tmp_path / "a.mcap").roles
    assert roles == {"image": "/b/image", "camera_info": "/b/camera_info"}


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.2])
@pytest.mark.parametrize("kind", ["mcap", "unchunked", "ros1", "sqlite3"])
def test_cut_files_are_read_as_far_as_they_are_whole(
    kind: str, share: float, tmp_path: Path
) -> None:
    whole = write_unchunked(tmp_path / "u.mcap") if kind == "unchunked" else None
    whole = whole or WRITERS[kind](tmp_path)
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    recording = open_recording(cut)
    items = list(recording.frames())
    # Chunks of compressed data and pages that are cut cost a few frames more.
    assert_prefix(items, max(0, int(share * len(FRAMES)) - 10))
    assert recording.damage
    assert len(list(recording.frames())) == len(items)
    assert print_info(cut, as_json=True) == 3


def test_a_recording_without_a_summary_is_whole_but_for_it(tmp_path: Path) -> None:
    recording = open_recording(write_unchunked(tmp_path / "u.mcap"))
    assert_prefix(list(recording.frames()), len(FRAMES))
    assert recording.damage == ("u.mcap: ends without a footer",)


@pytest.mark.parametrize("kind", ["mcap", "ros1"])
def test_a_damaged_chunk_costs_only_itself(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    if kind == "ros1":
        path = write_ros1(tmp_path / "a.bag")
    else:
        write_mcap(path, make_frames(80))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    recording = open_recording(path)
    items = list(recording.frames())
    expected = len(FRAMES) if kind == "ros1" else 320
    assert expected * 0.3 < len(items) < expected
    # Something before and something after the damage.
    assert items[0].stamp_ns == FRAMES[0].stamp_ns
    assert items[-1].stamp_ns >= FRAMES[-1].stamp_ns
    assert all(item.frame is not None for item in items)
    assert len(recording.damage) == 1
    assert "chunk at byte" in recording.damage[0]


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_rosbag2_without_its_metadata(plugin: StoragePlugin, tmp_path: Path) -> None:
    bag = write_rosbag2(tmp_path / "bag", plugin)
    (bag / "metadata.yaml").unlink()
    recording = open_recording(bag)
    assert_prefix(list(recording.frames()), len(FRAMES))
    assert recording.damage == ("metadata.yaml is missing",)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    assert_prefix(list(open_recording(bag).frames()), len(FRAMES))


def test_files_outside_the_folder_are_not_opened(tmp_path: Path) -> None:
    bag = write_rosbag2(tmp_path / "bag", StoragePlugin.MCAP)
    outside = tmp_path / "outside.mcap"
    shutil.move(next(bag.glob("*.mcap")), outside)
    text = (bag / "metadata.yaml").read_text()
    for name in ("../outside.mcap", str(outside), "..\\outside.mcap"):
        (bag / "metadata.yaml").write_text(text.replace("bag.mcap", name))
        assert name in (bag / "metadata.yaml").read_text()
        with pytest.raises(RecordingError, match="missing"):
            open_recording(bag)


def test_messages_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    name, message = encode_frame(rosbags_factory, FRAMES[2])
    whole = bytes(TYPESTORE.serialize_cdr(message, name))
    with McapSink(path) as sink:
        sink.write("/image", name, message, 1)
        text = rosbags_factory(STRING, data="x")
        sink.write("/words", STRING, text, 2)
    with path.open("wb") as file:
        writer = RawMcapWriter(file)
        writer.start(profile="ros2")
        definition = TYPESTORE.generate_msgdef(name, ros_version=2)[0].encode()
        schema = writer.register_schema(name, "ros2msg", definition)
        other = writer.register_schema(name, "ros2msg", b"string data\n")
        image = writer.register_channel("/image", "cdr", schema)
        words = writer.register_channel("/other", "cdr", other)
        writer.add_message(image, 2**64 - 1, whole, 0)  # beyond the end of time
        for stamp, data in enumerate([whole, whole[:100], b"", b"\0\1\0\0" + b"\xff" * 60, whole]):
            writer.add_message(image, stamp, data, stamp)
        writer.add_message(words, 9, whole, 9)
        writer.finish()
    recording = open_recording(path)
    items = list(recording.frames())
    assert [item.frame is None for item in items] == [False, True, True, True, False]
    assert all(item.rejected for item in items if item.frame is None)
    (refused,) = recording.frames({"image": "/other"})
    assert refused.rejected == f"{name} is defined otherwise in the file"
    info = describe(recording)
    assert info.rejected == 4
    assert info.damage == ("/image: messages at impossible times left out",)
    small = open_recording(path, max_bytes=1000)
    assert all(item.frame is None for item in small.frames())


def test_definitions_in_a_file_are_never_run(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    flag = tmp_path / "run"
    name = f"x/msg/Y:\n    open({str(flag)!r}, 'w')\nclass Z"
    with path.open("wb") as file:
        writer = RawMcapWriter(file)
        writer.start(profile="ros2")
        for kind in (name, "sensor_msgs/msg/Image"):
            text = f"string data\n{'=' * 80}\nMSG: {name}\nstring data\n"
            schema = writer.register_schema(kind, "ros2msg", text.encode())
            channel = writer.register_channel(f"/{len(kind)}", "cdr", schema)
            writer.add_message(channel, 1, b"\0\1\0\0" + bytes(40), 1)
        writer.finish()
    recording = open_recording(path)
    assert [item.frame for item in recording.frames()] == [None]
    assert len(list(recording.scan())) == 2
    assert not flag.exists()


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("hello, this is no recording")
    (tmp_path / "text.db3").write_text("hello, this is no recording")
    (tmp_path / "text.bag").write_text("hello, this is no recording")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "void.mcap").touch()
    (tmp_path / "head.db3").write_bytes(b"SQLite format 3\0" + bytes(84))
    for name in sorted(p.name for p in tmp_path.iterdir()) + ["absent"]:
        with pytest.raises(RecordingError):
            open_recording(tmp_path / name)
        assert print_info(tmp_path / name, as_json=False) == 2


def test_an_empty_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mcap(tmp_path / "a.mcap", [])
    with Writer2(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3):
        pass
    with Writer1(tmp_path / "a.bag"):
        pass
    for name in ("a.mcap", "bag", "a.bag"):
        assert list(open_recording(tmp_path / name).frames()) == []
        assert print_info(tmp_path / name, as_json=True) == 0
        info = json.loads(capsys.readouterr().out)
        assert (info["duration_s"], info["first_ns"], info["topics"]) == (0.0, None, [])


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mcap"
    with McapSink(path) as sink:
        for frame in (f for f in FRAMES if isinstance(f, Scan)):
            if frame.stamp_ns == FRAMES[4 * 5].stamp_ns:
                continue  # a gap of one scan
            name, message = encode_frame(rosbags_factory, frame)
            sink.write("/points", name, message, frame.stamp_ns + 20_000_000)
    assert print_info(path, as_json=True) == 0
    info = json.loads(capsys.readouterr().out)
    (topic,) = info["topics"]
    assert topic["count"] == 11
    assert topic["role"] == "points"
    assert topic["rate_hz"] == pytest.approx(10.0)
    assert topic["largest_gap_s"] == pytest.approx(0.2)
    assert topic["delay_s"] == pytest.approx(0.02)
    assert info["duration_s"] == pytest.approx(1.1)
    assert info["size_bytes"] == path.stat().st_size
    assert print_info(path, as_json=False) == 0
    assert "/points" in capsys.readouterr().out


def test_other_libraries_read_what_the_sink_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    marker = rosbags_factory("visualization_msgs/msg/Marker", ns="here")
    marker.header.stamp.sec = 7
    with McapSink(path, latched=["/markers"]) as sink:
        for frame in FRAMES:
            name, message = encode_frame(rosbags_factory, frame)
            sink.write(topic_of(frame), name, message, frame.stamp_ns)
        message = rosbags_factory("visualization_msgs/msg/MarkerArray", markers=[marker])
        sink.write("/markers", "visualization_msgs/msg/MarkerArray", message, 7_000_000_000)
    with AnyReader([path]) as reader:
        assert reader.message_count == len(FRAMES) + 1
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        assert qos["/points"] == []
        assert qos["/markers"][0].durability.name == "TRANSIENT_LOCAL"
        for connection, stamp, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == "/markers":
                assert stamp == 7_000_000_000
                assert message.markers[0].ns == "here"
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        decoded = list(reader.iter_decoded_messages())
    assert len(decoded) == len(FRAMES) + 1
    first = next(d for d in decoded if d.channel.topic == "/cam/image")
    assert bytes(first.decoded_message.data) == FRAMES[2].rgb.tobytes()
    assert first.message.log_time == FRAMES[2].stamp_ns


def test_serialised_messages_are_written_at_their_own_stamp(tmp_path: Path) -> None:
    name, message = encode_frame(rosbags_factory, FRAMES[2])
    markers = rosbags_factory(
        "visualization_msgs/msg/MarkerArray",
        markers=[rosbags_factory("visualization_msgs/msg/Marker", header=message.header)],
    )
    nothing = rosbags_factory("visualization_msgs/msg/MarkerArray")
    stamp = FRAMES[2].stamp_ns
    with McapSink(tmp_path / "a.mcap") as sink:
        cdr = {n: bytes(TYPESTORE.serialize_cdr(m, n)) for n, m in [(name, message)]}
        assert sink.write_cdr("/image", name, cdr[name]) == stamp
        for value in (markers, nothing):
            data = bytes(TYPESTORE.serialize_cdr(value, value.__msgtype__))
            assert sink.write_cdr("/markers", value.__msgtype__, data) == stamp
        for wrong in (name, markers.__msgtype__, "unknown_msgs/msg/Thing"):
            with pytest.raises(ValueError, match=wrong):
                sink.write_cdr("/image", wrong, b"\0\1\0\0\1")
        with pytest.raises(ValueError, match="carries"):
            sink.write("/image", STRING, rosbags_factory(STRING), 1)
        with pytest.raises(ValueError, match="stamp"):
            sink.write("/words", STRING, rosbags_factory(STRING), -1)
    assert [item.stamp_ns for item in open_recording(tmp_path / "a.mcap").scan()] == [stamp] * 3


def test_a_failed_run_keeps_the_last_result_and_its_own_part(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", FRAMES[:4])
    before = path.read_bytes()
    name, message = encode_frame(rosbags_factory, FRAMES[2])
    with pytest.raises(KeyError), McapSink(path) as sink:  # noqa: PT012
        sink.write("/image", name, message, 5)
        raise KeyError
    assert path.read_bytes() == before
    part = open_recording(tmp_path / "a.part.mcap")
    assert len(list(part.frames())) == 1
    assert not part.damage
    with pytest.raises(SinkError, match="must end in"):
        McapSink(tmp_path / "a.bag")
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written"):
        McapSink(tmp_path / "file" / "a.mcap")


def test_what_a_crash_leaves_behind_is_readable(tmp_path: Path) -> None:
    sink = McapSink(tmp_path / "a.mcap")
    frames = make_frames(80)
    for frame in frames:
        name, message = encode_frame(rosbags_factory, frame)
        sink.write(topic_of(frame), name, message, frame.stamp_ns)
    left = shutil.copy(sink.partial, tmp_path / "left.mcap")  # as if the process ended here
    sink.close()
    recording = open_recording(left)
    stamps = [item.stamp_ns for item in recording.frames()]
    assert len(stamps) > 0.7 * len(frames)
    assert stamps == [frame.stamp_ns for frame in frames[: len(stamps)]]
    assert recording.damage


_FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
sys.path[:0] = {paths!r}
from test_recordings import FRAMES, make_frames, write_mcap
from robot_perception.pipeline.sinks import SinkError
from pathlib import Path
try:
    write_mcap(Path({out!r}), make_frames(80))
except SinkError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_a_full_disk_is_one_error_and_leaves_what_was_written(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    script = _FULL.format(paths=[str(here), str(here.parent)], out=str(tmp_path / "a.mcap"))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 7, done.stderr
    assert "it holds what came before" in done.stdout
    assert not (tmp_path / "a.mcap").exists()
    items = list(open_recording(tmp_path / "a.part.mcap").frames())
    assert_prefix(items[: len(FRAMES)], len(FRAMES))


def write_images(folder: Path, names: Sequence[str], size: tuple[int, int] = (20, 30)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        rgb = np.full((*size, 3), (i, 100, 200), np.uint8)
        assert cv2.imwrite(str(folder / name), rgb[..., ::-1])


def write_scans(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        points = np.full((50, 4), i, "<f4")
        points[0] = np.nan
        points.tofile(folder / f"{i:010d}.bin")


def test_kitti_raw(tmp_path: Path) -> None:
    drive = tmp_path / "2011_09_26" / "drive_sync"
    write_images(drive / "image_02/data", [f"{i:010d}.png" for i in range(4)])
    write_scans(drive / "velodyne_points/data", 4)
    stamps = [f"2011-09-26 13:02:{25 + i}.123456789" for i in range(4)]
    (drive / "velodyne_points/timestamps.txt").write_text("\n".join(stamps) + "\n")
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\nP_rect_00: 1 0 0 0 0 1 0 0 0 0 1 0\n"
        "P_rect_02: 700 0 15 4 0 710 10 0 0 0 1 0\n"
    )
    items = list(open_recording(drive).frames())
    assert [item.topic for item in items[:3]] == ["camera_info", "image", "points"]
    info, image, scan = (item.frame for item in items[3:6])
    assert info.stamp_ns == image.stamp_ns == scan.stamp_ns == 1_317_042_146_123_456_789
    assert (info.width, info.height) == (30, 20)
    np.testing.assert_array_equal(info.k, [[700, 0, 15], [0, 710, 10], [0, 0, 1]])
    assert tuple(image.rgb[0, 0]) == (1, 100, 200)
    assert (len(scan.xyz), scan.dropped, scan.intensity[0], scan.ring) == (49, 1, 1.0, None)
    (drive / "velodyne_points/timestamps.txt").write_text("nonsense\n")
    (drive / "velodyne_points/data/0000000001.bin").unlink()
    (drive / "velodyne_points/data/0000000002.bin").write_bytes(b"123")
    (drive / "image_02/data/0000000003.png").write_bytes(b"123")
    recording = open_recording(drive)
    items = list(recording.frames())
    assert recording.damage
    points = [item for item in items if item.topic == "points"]
    assert [item.stamp_ns - items[0].stamp_ns for item in points] == [0, 200_000_000, 300_000_000]
    assert [item.rejected is None for item in points] == [True, False, True]
    assert "no image" in str(items[-2].rejected)


def test_kitti_odometry(tmp_path: Path) -> None:
    sequence = tmp_path / "sequences" / "07"
    write_images(sequence / "image_2", [f"{i:06d}.png" for i in range(3)])
    write_scans(sequence / "velodyne", 3)
    (sequence / "times.txt").write_text("0.000000e+00\n1.037e-01\n2.074e-01\n")
    # The camera looks along the LiDAR's x axis, and sits 0.5 m in front of it.
    mount = "0 -1 0 0 0 0 -1 0 1 0 0 -0.5"
    calib = f"P0: {'1 ' * 12}\nP2: 700 0 15 4 0 710 10 0 0 0 1 0\nTr: {mount}\n"
    (sequence / "calib.txt").write_text(calib)
    poses = [f"1 0 0 0 0 1 0 0 0 0 1 {2 * i}" for i in range(2)] + ["1 1 1 0 0 1 0 0 0 0 1 0"]
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses/07.txt").write_text("\n".join(poses))
    items = list(open_recording(sequence).frames())
    assert [item.topic for item in items[4:8]] == ["odom", "camera_info", "image", "points"]
    assert items[4].stamp_ns - items[0].stamp_ns == 103_700_000
    odom = items[4].frame
    assert odom.child_frame_id == "velodyne"
    # Two metres ahead: along z for the camera, along x for the LiDAR.
    np.testing.assert_allclose(odom.pose[:3, 3], [2, 0, 0], atol=1e-9)
    assert items[8].rejected == "the pose is not a rigid transform"
    (sequence / "calib.txt").unlink()
    odom = list(open_recording(sequence).frames({"odom": "/odom"}))[1].frame
    assert odom.child_frame_id == "camera"
    np.testing.assert_allclose(odom.pose[:3, 3], [2, 0, 0], atol=1e-9)


def test_folder_of_images_with_poses(tmp_path: Path) -> None:
    write_images(tmp_path, [f"frame-{i:06d}.color.jpg" for i in (0, 2, 4)])
    write_images(tmp_path, ["frame-000000.depth.png"])
    for i, x in ((0, "1.5"), (2, "nan"), (4, "2.5")):
        text = f"1 0 0 {x}\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
        (tmp_path / f"frame-{i:06d}.pose.txt").write_text(text)
    (tmp_path / "camera-intrinsics.txt").write_text("585 0 15\n0 585 10\n0 0 1\n")
    items = list(open_recording(tmp_path).frames())
    assert [item.topic for item in items] == ["odom", "camera_info", "image"] * 3
    assert items[3].stamp_ns - items[0].stamp_ns == 66_666_667
    assert items[0].frame.pose[0, 3] == 1.5
    assert items[3].rejected == "the pose is not a rigid transform"
    assert items[4].frame.k[0, 0] == 585
    plain = tmp_path / "plain"
    write_images(plain, ["b10.png", "b9.png", "a.jpg"])
    frames = [item.frame for item in open_recording(plain, rate_hz=2.0).frames()]
    assert [int(frame.rgb[0, 0, 0]) for frame in frames] == [2, 1, 0]  # a, b9, b10
    assert [f.stamp_ns - frames[0].stamp_ns for f in frames] == [0, 500_000_000, 1_000_000_000]
    timed = tmp_path / "timed"
    write_images(timed, ["1403636579763555584.png", "1403636579813555456.png"])
    stamps = [item.stamp_ns for item in open_recording(timed).frames()]
    assert stamps == [1403636579763555584, 1403636579813555456]


def test_folder_of_clouds(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    xyz = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(xyz))
    cloud.point["intensity"] = open3d.core.Tensor(xyz[:, :1].copy())
    forms = {"binary": {}, "ascii": {"write_ascii": True}, "packed": {"compressed": True}}
    for kind in ("pcd", "ply"):
        for form, options in forms.items():
            path = tmp_path / f"{form}.{kind}"
            assert open3d.t.io.write_point_cloud(path, cloud, **options)
            data = path.read_bytes()
            (tmp_path / f"{form}_cut.{kind}").write_bytes(data[: int(0.7 * len(data))])
            for count in (b"vertex 100", b"POINTS 100"):
                data = data.replace(count, count + b"000000000")
            (tmp_path / f"{form}_lie.{kind}").write_bytes(data)
    (tmp_path / "none.pcd").write_bytes(b"no cloud at all")
    (tmp_path / "none.ply").write_bytes(b"ply\nend_header\n")
    (tmp_path / "none.bin").write_bytes(bytes(17))
    items = list(open_recording(tmp_path).frames())
    names = sorted(p.name for p in tmp_path.iterdir())
    whole = {item.stamp_ns: item.frame for item in items if item.frame is not None}
    assert len(items) == len(names) == 21
    assert len(whole) == 6
    for frame in whole.values():
        np.testing.assert_allclose(frame.xyz, xyz, atol=1e-4)
        np.testing.assert_allclose(frame.intensity, xyz[:, 0], atol=1e-4)
    assert items[1].stamp_ns - items[0].stamp_ns == 100_000_000


def test_real_kitti_recording(kitti: Path) -> None:
    recording = open_recording(kitti)
    assert {t.name: t.count for t in recording.topics} == dict.fromkeys(
        ("/camera_info", "/image", "/points"), 60
    )
    last = 0
    scans = 0
    for item in recording.frames({"points": "/points"}):
        assert isinstance(item.frame, Scan)
        assert 100_000 < len(item.frame.xyz) < 140_000
        assert item.stamp_ns - last == 100_000_000 or scans == 0
        last = item.stamp_ns
        scans += 1
    assert scans == 60
    info = next(recording.frames({"camera_info": "/camera_info"})).frame
    assert (info.width, info.height, info.k[0, 0]) == (1242, 375, 721.5377)
