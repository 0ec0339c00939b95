"""Coverage-guided fuzzing of the decoder with atheris: a valid result or InputRejected.

One input is a message with odd values, or the changed bytes of a serialised one.

Needs `pip install robot_perception[fuzz]`. The last line of the output is a JSON report; a crash
ends with another status, the input that caused it and a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test"), str(ROOT / "test" / "reliability")]

import decoder_corpus as corpus  # noqa: E402

with atheris.instrument_imports(include=["robot_perception.wire"]):
    from robot_perception import wire
# Only now: it imports the decoder, too.
import hostile_bytes  # noqa: E402

from robot_perception.core.errors import InputRejected  # noqa: E402
from robot_perception.pipeline.messages import deserialize, serialize  # noqa: E402

LIMIT = 1 << 20
NAMES = ("x", "y", "z", "intensity", "i", "ring", "channel", "t", "time", "timestamp", "rgb")
ENCODINGS = [
    *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "rgb16", "bgr16", "16UC1", "8UC3"),
    *("8UC1", "bayer_rggb8", "bayer_gbrg16", "uyvy", "yuyv", "yuv422", "yuv422_yuy2", "nv12"),
    *("nv21", "nv24", "32FC1"),
]
LAYOUTS = ["jpeg", "png", "bayer_rggb8; png compressed", "compressedDepth"]


def small_or_any(data: Any, high: int) -> int:
    """Mostly what fits, sometimes anything that a uint32 holds."""
    fits = data.ConsumeIntInRange(0, 9) > 0
    return int(data.ConsumeIntInRange(0, high) if fits else data.ConsumeIntInRange(-1, 2**32))


def head(data: Any) -> Any:
    stamp = SimpleNamespace(sec=small_or_any(data, 2**31 - 1), nanosec=small_or_any(data, 10**9))
    return SimpleNamespace(stamp=stamp, frame_id=data.ConsumeUnicodeNoSurrogates(4))


def cloud(data: Any) -> Any:
    kind = data.ConsumeIntInRange(0, 9)
    names = (*NAMES[:3], *(data.PickValueInList(list(NAMES)) for _ in range(kind % 4)))
    size = 4 if kind < 7 else 8
    fields = [
        SimpleNamespace(
            name=name,
            offset=size * i if data.ConsumeIntInRange(0, 7) else small_or_any(data, 40),
            datatype=(7 if size == 4 else 8) if i < 3 else data.ConsumeIntInRange(0, 9),
            count=data.ConsumeIntInRange(0, 2) if i >= 3 else 1,
        )
        for i, name in enumerate(names)
    ]
    step, width = data.ConsumeIntInRange(12, 60), small_or_any(data, 8)
    return SimpleNamespace(
        header=head(data),
        fields=fields,
        width=width,
        height=small_or_any(data, 3),
        is_bigendian=data.ConsumeBool(),
        point_step=step,
        row_step=small_or_any(data, 500) if data.ConsumeBool() else width * step,
        is_dense=data.ConsumeBool(),
        data=data.ConsumeBytes(2000),
    )


def image(data: Any) -> Any:
    return SimpleNamespace(
        header=head(data),
        width=small_or_any(data, 8),
        height=small_or_any(data, 6),
        encoding=data.PickValueInList(ENCODINGS),
        is_bigendian=data.ConsumeIntInRange(0, 2),
        step=small_or_any(data, 70),
        data=data.ConsumeBytes(2000),
    )


def compressed(data: Any) -> Any:
    content = bytearray(data.PickValueInList([corpus.JPEG, corpus.PNG, corpus.PROGRESSIVE]))
    for _ in range(data.ConsumeIntInRange(0, 6)):
        at = data.ConsumeIntInRange(0, len(content) - 1)
        content[at] = data.ConsumeIntInRange(0, 255)
    if data.ConsumeIntInRange(0, 5) == 0:
        content = bytearray(bytes(content[:30]) + data.ConsumeBytes(500))
    layout = data.PickValueInList(LAYOUTS)
    return SimpleNamespace(header=head(data), format=layout, data=bytes(content))


SERIALISED = [
    (kind, serialize(hostile_bytes.good(kind, size=(20, 20))))
    for kind in (*hostile_bytes.TYPES[:3], hostile_bytes.CAMERA, hostile_bytes.ODOMETRY)
]


def deserialized(data: Any) -> tuple[str, Any]:
    """Type and message of a valid one's bytes after up to six changes; raises InputRejected."""
    kind, content = SERIALISED[data.ConsumeIntInRange(0, len(SERIALISED) - 1)]
    changed = bytearray(content)
    for _ in range(data.ConsumeIntInRange(0, 6)):
        # Lengths and counts are in the first bytes.
        high = 200 if data.ConsumeBool() else len(content)
        changed[data.ConsumeIntInRange(0, min(high, len(content)) - 1)] = data.ConsumeIntInRange(
            0, 255
        )
    end = len(changed) if data.ConsumeBool() else data.ConsumeIntInRange(0, len(changed))
    return kind, deserialize(bytes(changed[:end]), kind, LIMIT)


BUILDERS = (
    ("sensor_msgs/msg/PointCloud2", cloud),
    ("sensor_msgs/msg/Image", image),
    ("sensor_msgs/msg/CompressedImage", compressed),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    # Imported here: it needs the folder on the path, and no instrumentation.
    from test_wire_properties import valid

    counts = {"valid": 0, "rejected": 0}
    start = time.monotonic()

    def one_input(content: bytes) -> None:
        data = atheris.FuzzedDataProvider(content)
        choice = data.ConsumeIntInRange(0, len(BUILDERS))
        try:
            if choice < len(BUILDERS):
                type_name, build = BUILDERS[choice]
                message = build(data)
            else:
                type_name, message = deserialized(data)
            valid(wire.decode(message, type_name, LIMIT), message)
            counts["valid"] += 1
        except InputRejected as rejected:
            assert 0 < len(rejected.reason) < 160
            counts["rejected"] += 1
        if (spent := time.monotonic() - start) >= seconds:
            # libFuzzer has no way to return from its loop.
            print(json.dumps({"runs": sum(counts.values()), "seconds": round(spent, 1), **counts}))
            sys.stdout.flush()
            os._exit(0)

    os.chdir(tempfile.mkdtemp(prefix="fuzz_"))  # where libFuzzer leaves the input of a crash
    atheris.Setup([sys.argv[0], "-max_len=3000", "-timeout=20", "-rss_limit_mb=4096"], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
