"""Search and memory of the place index from 10^4 to 10^7 super-segments: exact against trained.

    python benchmarks/bench_revisit_scale.py [--most 1000000] [--json FILE]

Places are synthetic: random descriptors whose spectrum falls as that of real ones. A query is a
place seen again, each descriptor disturbed until its similarity is what it is between views of one
place of 7-Scenes' red kitchen (0.75). Every time is of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np

from robot_perception.core.revisit.index import PlaceIndex

SEGMENTS, DIMENSIONS, IMAGE = 50, 256, 2048
SIMILARITY = 0.75
QUERIES = 50
_SPECTRUM = np.float32(1 / np.sqrt(1 + np.arange(DIMENSIONS) / 8))
_IMAGE_SPECTRUM = np.float32(1 / np.sqrt(1 + np.arange(IMAGE) / 8))


def unit(x: np.ndarray) -> np.ndarray:
    return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))


def place(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors (S, P) and (G,) of a place, the same for the same number."""
    rng = np.random.default_rng(number)
    segments = unit(rng.standard_normal((SEGMENTS, DIMENSIONS), np.float32) * _SPECTRUM)
    return segments, unit(rng.standard_normal(IMAGE, np.float32) * _IMAGE_SPECTRUM)


def seen_again(number: int) -> tuple[np.ndarray, np.ndarray]:
    there, other = place(number), place(number + 2**40)
    away = np.float32(np.sqrt(1 / SIMILARITY**2 - 1))
    segments, image = (unit(a + away * b) for a, b in zip(there, other, strict=True))
    return segments, image


def measure(keyframes: int, train_at: int) -> dict[str, float]:
    index = PlaceIndex(DIMENSIONS, IMAGE, train_at)
    add_s = longest_s = 0.0
    for i in range(keyframes):
        segments, image = place(i)
        start = time.perf_counter()
        index.add(segments, image)
        spent = time.perf_counter() - start
        add_s, longest_s = add_s + spent, max(longest_s, spent)
    times, hits = [], 0
    for number in np.linspace(0, keyframes - 1, QUERIES).astype(int).tolist():
        segments, image = seen_again(number)
        start = time.perf_counter()
        ids, _, _ = index.rank(segments, image, keyframes)
        times.append(time.perf_counter() - start)
        hits += bool(ids[0] == number)
    return {
        "keyframes": keyframes,
        "super_segments": keyframes * SEGMENTS,
        "trained": index.trained,
        "bytes_per_keyframe": index.nbytes / keyframes,
        "add_ms": 1e3 * add_s / keyframes,
        "longest_add_s": longest_s,
        "search_ms": 1e3 * float(np.median(times)),
        "recall@1": hits / QUERIES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="super-segments")
    parser.add_argument("--most-exact", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rows = []
    for exponent in np.arange(4, 7.1, 0.5):
        total = int(10**exponent)
        for trained in (False, True):
            if total > (options.most if trained else options.most_exact):
                continue
            if trained and total < 100_000:
                continue
            row = measure(total // SEGMENTS, 100_000 if trained else 2**62)
            rows.append(row)
            print({k: round(v, 3) for k, v in row.items()}, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
