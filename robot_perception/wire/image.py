"""sensor_msgs/Image and sensor_msgs/CompressedImage -> ImageFrame.

16-bit pictures are scaled from their full range to 0..255, as cv_bridge does. Generic types of
three and four channels (8UC3, 16UC4, ...) are in OpenCV's order, blue first. YUV is BT.601 of
limited range. Signed and floating-point pictures hold no colour: they are rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import U8, ImageFrame
from robot_perception.wire.common import (
    DEFAULT_MAX_BYTES,
    bytes_of,
    rejects,
    rows_of,
    stamp_of,
    text,
    uint32,
    within,
)

# Pixel-interleaved encodings: bytes of a channel, channels, OpenCV conversion to RGB (None: is RGB)
_PACKED: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": (1, 3, cv2.COLOR_BGR2RGB),
    "8UC4": (1, 4, cv2.COLOR_BGRA2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    "16UC1": (2, 1, cv2.COLOR_GRAY2RGB),
    "16UC3": (2, 3, cv2.COLOR_BGR2RGB),
    "16UC4": (2, 4, cv2.COLOR_BGRA2RGB),
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUYV),
}
_BAYER: dict[str, int] = {
    "bayer_rggb": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg": cv2.COLOR_BayerGRBG2RGB,
}
for _pattern, _code in _BAYER.items():
    _PACKED[f"{_pattern}8"] = (1, 1, _code)
    _PACKED[f"{_pattern}16"] = (2, 1, _code)
_YUV422 = (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUYV)
_NV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}

# BT.601, limited range: Y 16..235, U and V 16..240 around 128.
_YUV_TO_RGB = np.array(
    [[1.164383, 0.0, 1.596027], [1.164383, -0.391762, -0.812968], [1.164383, 2.017232, 0.0]]
)
_YUV_TO_RGB = np.column_stack([_YUV_TO_RGB, -_YUV_TO_RGB @ (16.0, 128.0, 128.0)])


@rejects("sensor_msgs/Image")
def decode_image(message: Any, max_bytes: int = DEFAULT_MAX_BYTES) -> ImageFrame:
    """Decode a sensor_msgs/Image.

    `rgb` is a read-only view of the message's data for rgb8, and also for rgb8 with padded rows.
    `max_bytes` bounds the message's data and the decoded picture. Bytes after the last row are
    ignored, missing ones are not. Raises InputRejected.
    """
    stamp_ns, frame_id = stamp_of(message)
    width, height = uint32(message.width, "width"), uint32(message.height, "height")
    step, encoding = uint32(message.step, "step"), text(message.encoding, "encoding")
    _check_size(width, height, max_bytes)
    data = bytes_of(message.data, max_bytes)
    if encoding in _NV420 or encoding == "nv24":
        rgb = _semi_planar(data, encoding, width, height, step)
    elif encoding in _PACKED:
        rgb = _packed(data, encoding, width, height, step, bool(message.is_bigendian))
    else:
        raise InputRejected(f"encoding {encoding[:40]!r} is not a colour or grey picture we know")
    return ImageFrame(stamp_ns, frame_id, rgb)


@rejects("label image")
def decode_labels(
    message: Any, max_bytes: int = DEFAULT_MAX_BYTES
) -> tuple[int, NDArray[np.uint16]]:
    """Stamp in ns and labels (H, W) uint16 of a 16UC1 image; raises InputRejected."""
    stamp_ns, _ = stamp_of(message)
    width, height = uint32(message.width, "width"), uint32(message.height, "height")
    step, encoding = uint32(message.step, "step"), text(message.encoding, "encoding")
    if encoding not in ("16UC1", "mono16"):
        raise InputRejected(f"encoding {encoding[:40]!r} is not 16UC1")
    _check_size(width, height, max_bytes)
    rows = rows_of(bytes_of(message.data, max_bytes), height, 2 * width, step)
    kind = ">u2" if message.is_bigendian else "<u2"
    return stamp_ns, np.ascontiguousarray(rows).view(kind).astype(np.uint16)


def _check_size(width: int, height: int, max_bytes: int) -> None:
    if not width or not height:
        raise InputRejected(f"empty image, {width} x {height}")
    within(3 * width * height, max_bytes)


def _packed(data: U8, encoding: str, width: int, height: int, step: int, big: bool) -> U8:
    size, channels, code = _PACKED[encoding]
    if code in _YUV422 and width % 2:
        raise InputRejected(f"{encoding} of odd width {width}")
    rows_of(data, height, width * channels * size, step)
    kind = "u1" if size == 1 else ">u2" if big else "<u2"
    shape, strides = (height, width, channels), (step, channels * size, size)
    stored: NDArray[Any] = np.ndarray(shape, kind, data, 0, strides)
    if channels == 1:
        stored = stored[:, :, 0]
    if size == 1:
        return np.asarray(_convert(stored, code), np.uint8)
    picture = _convert(np.ascontiguousarray(stored, np.uint16), code)
    return np.asarray(cv2.convertScaleAbs(picture, alpha=255 / 65535), np.uint8)


def _convert(picture: NDArray[Any], code: int | None) -> Any:
    if code is None:
        return picture
    if code in _BAYER.values() and min(picture.shape) < 3:
        raise InputRejected("a Bayer mosaic needs at least 3 x 3 pixels")
    return cv2.cvtColor(picture, code)


def _semi_planar(data: U8, encoding: str, width: int, height: int, step: int) -> U8:
    """NV12, NV21 (chroma of half resolution) and NV24: a plane of Y, then one of U, V pairs."""
    half = encoding in _NV420
    if half and (width % 2 or height % 2):
        raise InputRejected(f"{encoding} of odd size {width} x {height}")
    if not half:
        luma = rows_of(data, height, width, step)
        # The chroma plane has two bytes a pixel, so its rows are two steps long.
        chroma = rows_of(data[step * height :], height, 2 * width, 2 * step)
        yuv = np.concatenate([luma[:, :, None], chroma.reshape(height, width, 2)], axis=2)
        return np.asarray(cv2.transform(yuv, _YUV_TO_RGB), np.uint8)
    rows = np.ascontiguousarray(rows_of(data, height * 3 // 2, width, step))
    return np.asarray(cv2.cvtColor(rows, _NV420[encoding]), np.uint8)


@rejects("sensor_msgs/CompressedImage")
def decode_compressed_image(message: Any, max_bytes: int = DEFAULT_MAX_BYTES) -> ImageFrame:
    """Decode a sensor_msgs/CompressedImage that holds a JPEG or a PNG.

    The size comes from the file's header and is checked before anything is decoded. The EXIF
    orientation is ignored, as camera_info describes the picture as it was taken. Raises
    InputRejected, also for compressedDepth, which is not a colour picture.
    """
    stamp_ns, frame_id = stamp_of(message)
    layout = text(message.format, "format")
    if "compresseddepth" in layout.lower():
        raise InputRejected("compressedDepth holds a depth image, not a colour picture")
    data = bytes_of(message.data, max_bytes)
    raw = data.tobytes()
    for magic, header in _HEADERS.items():
        if raw.startswith(magic):
            width, height, channels = header(raw)
            break
    else:
        raise InputRejected(f"neither JPEG nor PNG (format {layout[:40]!r})")
    _check_size(width, height, max_bytes)
    # A mosaic that was compressed as it is comes as one grey channel.
    encoding = layout.split(";")[0].strip()
    mosaic = _BAYER.get(encoding.rstrip("0123456789")) if channels == 1 else None
    flag = cv2.IMREAD_COLOR_RGB if mosaic is None else cv2.IMREAD_GRAYSCALE
    picture: Any = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None or picture.shape[:2] != (height, width):
        raise InputRejected("broken JPEG or PNG")
    return ImageFrame(stamp_ns, frame_id, _convert(picture, mosaic))


_MAX_CHUNKS = 100_000


def _png_header(raw: bytes) -> tuple[int, int, int]:
    """Width, height, channels from the first chunk, which must be IHDR (PNG specification).

    All chunks must lie within the file: decoders allocate what a chunk's length claims.
    """
    if len(raw) < 33 or raw[12:16] != b"IHDR":
        raise InputRejected("PNG without a header")
    at = 8
    for _ in range(_MAX_CHUNKS):
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        at += 12 + length
        if at > len(raw) or len(kind) < 4:
            raise InputRejected("PNG is cut off, or claims more than is there")
        if kind == b"IEND":
            break
        if kind == b"acTL":
            raise InputRejected("PNG is an animation")
    else:
        raise InputRejected(f"PNG of more than {_MAX_CHUNKS} chunks")
    size = int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")
    return *size, 1 if raw[25] == 0 else 3


def _jpeg_header(raw: bytes) -> tuple[int, int, int]:
    """Width, height, components from the frame header, found by walking the segments (T.81 B.1)."""
    at = 2
    while at + 10 <= len(raw):
        if raw[at] != 0xFF:
            break
        marker = raw[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if b"\xff\xd9" not in raw[at:]:
                raise InputRejected("JPEG is cut off")
            # Each scan of a progressive file costs a pass over the picture; cameras write about 10.
            if raw.count(b"\xff\xda", at) > 100:
                raise InputRejected("JPEG of more than 100 scans")
            height = int.from_bytes(raw[at + 5 : at + 7], "big")
            width = int.from_bytes(raw[at + 7 : at + 9], "big")
            return width, height, raw[at + 9]
        if marker in (0xD9, 0xDA):
            break
        length = int.from_bytes(raw[at + 2 : at + 4], "big")
        # TEM and restart markers have no length.
        at += 2 if marker == 0x01 or 0xD0 <= marker <= 0xD8 else 2 + max(length, 2)
    raise InputRejected("JPEG without a frame header")


_HEADERS: dict[bytes, Callable[[bytes], tuple[int, int, int]]] = {
    b"\xff\xd8": _jpeg_header,
    b"\x89PNG\r\n\x1a\n": _png_header,
}
