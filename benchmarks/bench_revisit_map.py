"""A map of many keyframes, read into memory or left on disk: size, loading, memory, a search.

    python benchmarks/bench_revisit_map.py [--keyframes 2000] [--json FILE]

Keyframes are synthetic and of the size of real ones: 50 super-segments, 1000 keypoints, 9 kB of
pictures. Each way of loading is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_revisit_scale import DIMENSIONS, IMAGE, SEGMENTS, place, seen_again

from robot_perception.core.config import RevisitConfig
from robot_perception.core.revisit.decision import Calibration, candidates
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import Keyframe, load_map, save_map
from robot_perception.core.revisit.vlad import Vocabulary

KEYPOINTS, PICTURES = 1000, 9000
QUERIES = 20


def keyframe(number: int, again: bool = False) -> Keyframe:
    segments, image = (seen_again if again else place)(number)
    rng = np.random.default_rng([number, 1])
    return Keyframe(
        number,
        number * 10**9,
        segments.astype(np.float16),
        image.astype(np.float16),
        rng.uniform(0, 480, (KEYPOINTS, 2)).astype(np.float32),
        rng.integers(-128, 128, (KEYPOINTS, 64)).astype(np.int8),
        rng.integers(0, SEGMENTS, KEYPOINTS).astype(np.int32),
        None,
        float("nan"),
        (640, 480),
        rng.integers(0, 256, PICTURES).astype(np.uint8),
        rng.integers(0, 256, PICTURES // 10).astype(np.uint8),
    )


def memory_mb() -> tuple[float, float]:
    """Of this process: what is its own, and what are pages of files, which can be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split() for line in lines}
    own, files = (float(values[name][1]) / 1e3 for name in ("RssAnon", "RssFile"))
    return own, files


def measure(path: Path, mapped: bool) -> dict[str, float | bool]:
    before = memory_mb()[0]
    start = time.perf_counter()
    keyframes = load_map(path, mapped=mapped).keyframes
    loaded = time.perf_counter()
    index = PlaceIndex(DIMENSIONS, IMAGE)
    for each in keyframes:
        index.add(each.descriptors.astype(np.float32), each.image_descriptor.astype(np.float32))
    indexed = time.perf_counter()
    times, hits = [], 0
    for number in np.linspace(0, len(keyframes) - 1, QUERIES).astype(int).tolist():
        query = keyframe(number, again=True)
        began = time.perf_counter()
        found = candidates(query, index, keyframes, len(keyframes), RevisitConfig(), Calibration())
        times.append(time.perf_counter() - began)
        hits += any(c.keyframe.id == number for c in found)
    own, files = memory_mb()
    return {
        "on_disk": mapped,
        "load_s": loaded - start,
        "index_s": indexed - loaded,
        "memory_mb": own - before,
        "pages_of_files_mb": files,
        "search_and_check_ms": 1e3 * float(np.median(times)),
        "found": hits / QUERIES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keyframes", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), options.one[1] == "disk")))
        return
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((32, IMAGE // 32)).astype(np.float32)
    components = np.zeros((DIMENSIONS, IMAGE), np.float32)
    vocabulary = Vocabulary(centres, np.zeros(IMAGE, np.float32), components)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map"
        made = [keyframe(i) for i in range(options.keyframes)]
        start = time.perf_counter()
        save_map(path, "synthetic", vocabulary, made, np.zeros((0, 2), np.int32))
        result: dict[str, object] = {
            "keyframes": options.keyframes,
            "super_segments": options.keyframes * SEGMENTS,
            "file_mb": path.stat().st_size / 1e6,
            "save_s": time.perf_counter() - start,
        }
        del made
        rows = []
        for way in ("memory", "disk"):
            command = [sys.executable, __file__, "--one", str(path), way]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
    result["loaded"] = rows
    print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
