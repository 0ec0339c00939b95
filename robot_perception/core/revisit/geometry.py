"""Whether two images show the same scene, by the geometry of matched keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32, F64, CameraInfo

_MIN_COSINE = 0.75
_MIN_MATCHES = 8
_THRESHOLD_PX = 1.5
_CONFIDENCE = 0.999
_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class Verification:
    """Inlier pairs (M, 4) u, v, u', v' in pixels; the relative pose (4, 4) up to scale, or None."""

    pairs: F32
    pose: F64 | None


def match(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.intp]:
    """Index pairs (M, 2) of mutual nearest unit-length descriptors (N, D) and (L, D)."""
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.intp)
    similarity = a.astype(np.float32) @ b.astype(np.float32).T
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    index = np.arange(len(a))
    mutual = (back[forth] == index) & (similarity[index, forth] > _MIN_COSINE)
    return np.stack([index[mutual], forth[mutual]], axis=1)


def verify(query: F32, reference: F32, camera: CameraInfo | None) -> Verification:
    """Geometric check of matched keypoints (M, 2) and (M, 2), in pixels.

    With a calibrated camera, which must be that of both images: the essential matrix and the pose
    of the query camera in the reference camera's optical frame, of unit translation. Without: the
    fundamental matrix and no pose. Robust estimation is OpenCV's MAGSAC++ (Barath et al., 2020).
    """
    if len(query) < _MIN_MATCHES:
        return Verification(np.zeros((0, 4), np.float32), None)
    mask: Any
    pose: F64 | None = None
    try:
        if camera is None:
            _, mask = cv2.findFundamentalMat(
                query, reference, cv2.USAC_MAGSAC, _THRESHOLD_PX, _CONFIDENCE, _ITERATIONS
            )
        else:
            mask, pose = _essential(query, reference, camera)
    except cv2.error:
        mask = None
    if mask is None:
        return Verification(np.zeros((0, 4), np.float32), None)
    inliers = mask.ravel().astype(bool)
    return Verification(np.hstack([query, reference])[inliers].astype(np.float32), pose)


def _essential(query: F32, reference: F32, camera: CameraInfo) -> tuple[Any, F64 | None]:
    q = cv2.undistortPoints(query[:, None].astype(np.float64), camera.k, camera.d)[:, 0]
    r = cv2.undistortPoints(reference[:, None].astype(np.float64), camera.k, camera.d)[:, 0]
    threshold = _THRESHOLD_PX / ((camera.k[0, 0] + camera.k[1, 1]) / 2)
    essential, mask = cv2.findEssentialMat(
        q, r, np.eye(3), cv2.USAC_MAGSAC, _CONFIDENCE, threshold, _ITERATIONS
    )
    if essential is None or essential.shape != (3, 3):
        return mask, None
    count, rotation, translation, _ = cv2.recoverPose(essential, q, r, np.eye(3), mask=mask.copy())
    if count < _MIN_MATCHES:
        return mask, None
    # recoverPose takes points of the query camera into the reference camera.
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation[:, 0]
    return mask, pose
