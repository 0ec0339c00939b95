"""Bytes that are no message: rejected by name, and counted by nodes that go on."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from figures import record
from hostile_bytes import (
    CAMERA,
    CLOUD,
    COMPRESSED,
    IMAGE,
    ODOMETRY,
    POINT,
    TYPES,
    big_endian,
    good,
    good_labels,
    hostile,
    many_fields,
)

from robot_perception.core.errors import InputRejected
from robot_perception.pipeline.messages import deserialize, serialize
from robot_perception.wire import decode, decode_point


def read(data: bytes, type_name: str) -> Any:
    message = deserialize(data, type_name)
    return decode_point(message) if type_name == POINT else decode(message, type_name)


@pytest.mark.parametrize("type_name", TYPES)
def test_each_is_rejected_before_it_is_allocated(type_name: str) -> None:
    message = good(type_name)
    read(serialize(message), type_name)
    read(big_endian(message), type_name)
    read(serialize(message) + bytes(3), type_name)  # padding
    for name, data in hostile(message).items():
        tracemalloc.start()
        try:
            with pytest.raises(InputRejected) as caught:
                read(data, type_name)
            assert 0 < len(caught.value.reason) < 160, name
            assert tracemalloc.get_traced_memory()[1] < 2**20, name
        finally:
            tracemalloc.stop()


def test_a_million_fields_are_refused_unread() -> None:
    """They would be Python objects of ten times their bytes, and take seconds to make."""
    data = many_fields(1_000_000)
    tracemalloc.start()
    with pytest.raises(InputRejected, match="over the limit"):
        read(data, CLOUD)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_message_over_the_limit_is_rejected() -> None:
    data = serialize(good(IMAGE))
    assert deserialize(data, IMAGE, len(data)).height == 240
    with pytest.raises(InputRejected, match="limit"):
        deserialize(data, IMAGE, len(data) - 1)


# Node -> its options and its inputs: topic, type.
NODES: dict[str, tuple[list[str], dict[str, str]]] = {
    "perception": (
        [],
        {
            "image": IMAGE,
            "points": CLOUD,
            "camera_info": CAMERA,
            "odom": ODOMETRY,
            "prompt_point": POINT,
            "/clicked_point": POINT,
        },
    ),
    "revisit": (
        ["image_transport:=compressed", "labels_wait_s:=0.01"],
        {"image": COMPRESSED, "camera_info": CAMERA, "odom": ODOMETRY, "labels": IMAGE},
    ),
}


@pytest.fixture
def end(ros_domain: int) -> Iterator[Any]:
    """This process's end."""
    pytest.importorskip("rclpy")
    from test_nodes import Peer

    peer = Peer()
    yield peer
    peer.close()


def outlives(peer: Any, node: str) -> tuple[int, int, float]:
    """How many messages a node rejected, how many it processed, and by how many MB it grew."""
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image, PointCloud2
    from test_nodes import running

    from robot_perception.ros.messages import message_class

    options, inputs = NODES[node]
    arguments = [f"-p {option}" for option in [*options, "inbox_size:=100", "odom_wait_s:=0.0"]]
    for topic in inputs:
        name = f"qos_overrides./{topic.strip('/')}.subscription"
        arguments += [f"-p {name}.reliability:=reliable", f"-p {name}.depth:=100"]
    with running(node, *" ".join(arguments).split()) as process:
        publishers = {
            topic: peer.node.create_publisher(message_class(kind), topic, QoSProfile(depth=100))
            for topic, kind in inputs.items()
        }
        # Fast DDS delivers nothing where nothing is in it, nor what the same writer sends after it.
        silenced = [
            peer.node.create_publisher(p.msg_type, p.topic, 10) for p in publishers.values()
        ]
        peer.collect(PointCloud2, "/forecast/points")
        masks = peer.collect(Image, "/segmentation/prompt_mask")
        everyone = [*publishers.values(), *silenced]
        peer.until(lambda: all(p.get_subscription_count() for p in everyone), 240.0)
        peer.heard_by(node)

        def exactly(topic: str, processed: int, rejected: int) -> None:
            """Wait until so many were, and nothing else."""
            wanted = {
                "received": processed + rejected, "processed": processed,
                "dropped": 0, "rejected": rejected, "pending": 0,
            }  # fmt: skip
            peer.until(lambda: peer.counts(f"{node}: {topic}") == wanted)

        def send_good(stamp_ns: int, times: int, big: bool, rejected: dict[str, int]) -> None:
            for topic, kind in inputs.items():
                message = good_labels(stamp_ns) if topic == "labels" else good(kind, stamp_ns)
                if topic == "/clicked_point":
                    message.point.z = 500.0
                publishers[topic].publish(big_endian(message) if big else serialize(message))
                exactly(topic, times, rejected.get(topic, 0))

        send_good(1_000_000_000, 1, False, {})
        before = psutil.Process(process.pid).memory_info().rss
        for publisher in silenced:
            publisher.publish(b"")
        rejected = {}
        for topic, kind in inputs.items():
            # Of a new stamp, so that nothing is rejected for being late.
            stamp_ns = 1_500_000_000
            corpus = hostile(good_labels(stamp_ns) if topic == "labels" else good(kind, stamp_ns))
            for data in filter(None, corpus.values()):
                publishers[topic].publish(data)
            rejected[topic] = len(corpus) - 1
        for topic, count in rejected.items():
            exactly(topic, 1, count)
        grown = psutil.Process(process.pid).memory_info().rss - before
        # And the next good one is processed, in the other byte order at that.
        send_good(2_000_000_000, 2, True, rejected)
        if node == "perception":
            peer.until(lambda: len(masks) == 4)
        assert process.poll() is None
        for publisher in everyone:
            peer.node.destroy_publisher(publisher)
    return sum(rejected.values()), 2 * len(inputs), grown / 1e6


def test_live_nodes_count_them_and_go_on(end: Any) -> None:
    start = time.monotonic()
    found = [outlives(end, node) for node in NODES]
    rejected, processed = (sum(column) for column in list(zip(*found, strict=True))[:2])
    grown = max(mb for _, _, mb in found)
    assert grown < 300
    record(
        "decoder",
        "Bytes that are no message, on every input of live nodes",
        "each counted as rejected; the next good message is processed",
        rejected + processed,
        inputs=sum(len(inputs) for _, inputs in NODES.values()),
        rejected=rejected,
        processed=processed,
        dropped=0,
        nodes_ended=0,
        rss_mb_more=round(grown, 1),
        seconds=round(time.monotonic() - start, 1),
    )
