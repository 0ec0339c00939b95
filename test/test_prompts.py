"""Prompts as messages: the projection of clicked points, and the live node's answer."""

from __future__ import annotations

import numpy as np
import pytest

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import CameraInfo
from robot_perception.pipeline.prompts import pixel_of

K = np.array([[100.0, 0, 160], [0, 110, 120], [0, 0, 1]])


def camera(d: list[float], model: str = "plumb_bob") -> CameraInfo:
    return CameraInfo(0, "camera", 320, 240, K, np.array(d), model)


def test_points_fall_on_their_pixels() -> None:
    assert pixel_of(camera([]), np.array([0.5, -0.2, 2.0])) == pytest.approx((185, 109))
    k1 = 0.1
    x, y = pixel_of(camera([k1, 0, 0, 0, 0]), np.array([0.5, -0.2, 2.0]))
    factor = 1 + k1 * (0.25**2 + 0.1**2)
    assert (x, y) == pytest.approx((160 + 25 * factor, 120 - 11 * factor))
    for xyz, why in (((0, 0, -1), "behind"), ((0, 0, 0), "behind"), ((9, 0, 1), "outside")):
        with pytest.raises(InputRejected, match=why):
            pixel_of(camera([]), np.array(xyz, float))
    with pytest.raises(InputRejected, match="lens"):
        pixel_of(camera([], "odd"), np.array([0.0, 0, 1]))


def test_the_node_answers_prompts(ros_domain: int) -> None:
    pytest.importorskip("rclpy")
    from geometry_msgs.msg import PointStamped
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo as CameraInfoMessage
    from sensor_msgs.msg import Image
    from test_nodes import Peer, running
    from test_segmentation import SHAPES, scene

    from robot_perception.core.types import ImageFrame
    from robot_perception.ros.messages import rclpy_factory
    from robot_perception.wire import encode_camera_info, encode_frame

    peer = Peer()
    try:
        with running("segmentation"):
            masks = peer.collect(Image, "/segmentation/prompt_mask")
            images = peer.node.create_publisher(Image, "/image", qos_profile_sensor_data)
            infos = peer.node.create_publisher(CameraInfoMessage, "/camera_info", 5)
            pixel = peer.node.create_publisher(PointStamped, "/prompt_point", 5)
            click = peer.node.create_publisher(PointStamped, "/clicked_point", 5)
            publishers = (images, infos, pixel, click)
            peer.until(lambda: all(p.get_subscription_count() for p in publishers), 240.0)
            infos.publish(encode_camera_info(rclpy_factory, camera([])))
            stamp = iter(range(1, 10**6))

            def prompted(publisher: object, frame_id: str, xyz: tuple[float, ...]) -> np.ndarray:
                masks.clear()
                point = PointStamped()
                point.header.frame_id = frame_id
                point.point.x, point.point.y, point.point.z = xyz

                def answered() -> bool:
                    frame = ImageFrame(next(stamp) * 10**8, "camera", scene())
                    images.publish(encode_frame(rclpy_factory, frame)[1])
                    peer.spin(0.1)
                    publisher.publish(point)
                    return bool(masks)

                peer.until(answered)
                assert masks[-1].encoding == "mono8" and masks[-1].header.frame_id == "camera"
                return np.array(masks[-1].data, np.uint8).reshape(240, 320) > 0

            x0, y0, x1, y1 = SHAPES[0]
            truth = np.zeros((240, 320), bool)
            truth[y0:y1, x0:x1] = True
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            z = 4.0
            at = ((x - 160) / 100 * z, (y - 120) / 110 * z, z)
            for publisher, frame, xyz in ((pixel, "", (x, y, 0.0)), (click, "camera", at)):
                mask = prompted(publisher, frame, xyz)
                assert (mask & truth).sum() / (mask | truth).sum() > 0.85
            away = PointStamped()
            away.point.x = 1e4
            pixel.publish(away)
            peer.until(lambda: peer.counts("segmentation: prompt_point")["rejected"] > 0)
    finally:
        peer.close()


def test_segments_are_told_in_vision_msgs() -> None:
    pytest.importorskip("vision_msgs")
    from test_segmentation import scene

    from robot_perception.core.config import SegmentationConfig
    from robot_perception.core.segmentation.segmenter import Segmenter
    from robot_perception.core.types import ImageFrame
    from robot_perception.pipeline import detections
    from robot_perception.ros.messages import rclpy_factory

    result = Segmenter(SegmentationConfig()).step(ImageFrame(7, "camera", scene()))
    message = detections.segments(rclpy_factory, result)
    assert message.header.frame_id == "camera"
    for found, segment in zip(message.detections, result.segments, strict=True):
        x0, y0, x1, y1 = segment.box
        assert (found.bbox.center.position.x, found.bbox.size_y) == ((x0 + x1) / 2, y1 - y0)
        assert found.id == found.results[0].hypothesis.class_id == str(segment.id)
    info = detections.label_info(rclpy_factory, result)
    assert [c.class_id for c in info.class_map] == [0, *(s.id for s in result.segments)]
