"""Whether two images show the same scene, by the geometry of matched keypoints."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_perception.core.revisit.features import LONGER_SIDE, STEPS
from robot_perception.core.types import F32, F64, CameraInfo

_MIN_COSINE = 0.75
_MIN_MATCHES = 8
_THRESHOLD_PX = 1.5
_CONFIDENCE = 0.999
_ITERATIONS = 2000
# Share of the inliers of the fundamental matrix that a homography must explain to replace it.
_PLANAR = 0.9
# Below this much parallax, in inlier thresholds, the direction of motion is noise.
_MIN_PARALLAX = 2.0


def match(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.intp]:
    """Index pairs (M, 2) of mutual nearest descriptors (N, D) and (L, D), see `Features`."""
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.intp)
    similarity = a.astype(np.float32) @ b.astype(np.float32).T / STEPS**2
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    index = np.arange(len(a))
    mutual = (back[forth] == index) & (similarity[index, forth] > _MIN_COSINE)
    return np.stack([index[mutual], forth[mutual]], axis=1)


def verify(query: F32, reference: F32, size: tuple[int, int]) -> F32:
    """Those of matched keypoints (M, 2) and (M, 2), in pixels of images of `size`, that agree with
    one geometry: inlier pairs (I, 4) u, v, u', v'.

    By the fundamental matrix, or the homography where that explains the matches as well: for a
    plane or a rotation the fundamental matrix is undetermined and lets wrong matches pass.
    Robust estimation is OpenCV's MAGSAC++ (Barath et al., 2020), which is seeded. Intrinsics play
    no part, so that evidence is the same thing with and without a calibrated camera.
    """
    none = np.zeros((0, 4), np.float32)
    if len(query) < _MIN_MATCHES:
        return none
    threshold = _threshold(size)
    mask: Any
    plane: Any
    try:
        _, mask = cv2.findFundamentalMat(
            query, reference, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS
        )
        _, plane = cv2.findHomography(
            query,
            reference,
            cv2.USAC_MAGSAC,
            threshold,
            maxIters=_ITERATIONS,
            confidence=_CONFIDENCE,
        )
    except cv2.error:
        return none
    if mask is None:
        return none
    if plane is not None and plane.sum() >= _PLANAR * mask.sum():
        mask = plane
    pairs = np.hstack([query, reference])[mask.ravel().astype(bool)]
    return np.asarray(pairs, np.float32)


def relative_pose(pairs: F32, camera: CameraInfo, size: tuple[int, int]) -> F64 | None:
    """Pose (4, 4) of the query camera in the reference camera's optical frame, of unit translation,
    from inlier `pairs` (I, 4) of two images that `camera` took; by the essential matrix.

    None where it cannot be had: the camera is not calibrated, or the views do not differ by more
    than a rotation, so that the direction of motion would be noise.
    """
    if len(pairs) < _MIN_MATCHES or not is_usable(camera):
        return None
    try:
        return _pose(pairs, camera, _threshold(size))
    except cv2.error:
        return None


def is_usable(camera: CameraInfo) -> bool:
    """Whether `camera` is calibrated (REP-104: an uncalibrated one has a zero focal length) with a
    model of distortion that OpenCV's `undistortPoints` knows."""
    known = camera.distortion_model in ("", "plumb_bob", "rational_polynomial")
    finite = bool(np.isfinite(camera.k).all() and np.isfinite(camera.d).all())
    return known and finite and camera.k[0, 0] > 0 and camera.k[1, 1] > 0


def _threshold(size: tuple[int, int]) -> float:
    # Keypoints are found at a longer side of 640 pixels: a pixel there is more in a large image.
    return _THRESHOLD_PX * max(size) / LONGER_SIDE


def _pose(pairs: F32, camera: CameraInfo, threshold_px: float) -> F64 | None:
    points = pairs.astype(np.float64).reshape(-1, 2, 1, 2)
    q, r = (cv2.undistortPoints(points[:, i], camera.k, camera.d)[:, 0] for i in (0, 1))
    threshold = threshold_px / ((camera.k[0, 0] + camera.k[1, 1]) / 2)
    essential, mask = cv2.findEssentialMat(
        q, r, np.eye(3), cv2.USAC_MAGSAC, _CONFIDENCE, threshold, _ITERATIONS
    )
    if essential is None or essential.shape != (3, 3) or mask is None:
        return None
    inliers = mask.ravel().astype(bool)
    if _parallax(q[inliers], r[inliers]) < _MIN_PARALLAX * threshold:
        return None
    count, rotation, translation, _ = cv2.recoverPose(essential, q, r, np.eye(3), mask=mask.copy())
    if count < _MIN_MATCHES:
        return None
    # recoverPose takes points of the query camera into the reference camera.
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation[:, 0]
    return pose


def _parallax(q: F64, r: F64) -> float:
    """Median distance of normalised points (N, 2) that the best rotation alone leaves."""
    if not len(q):
        return 0.0
    rays = [np.hstack([p, np.ones((len(p), 1))]) for p in (q, r)]
    a, b = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays)
    rotation, _ = Rotation.align_vectors(b, a)
    turned = rotation.apply(rays[0])
    return float(np.median(np.linalg.norm(turned[:, :2] / turned[:, 2:] - r, axis=1)))
