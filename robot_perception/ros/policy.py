"""The SROS 2 policy of the nodes, taken from the graph that they really make.

    python -m robot_perception.ros.policy > config/sros2_policy.xml

Each node may publish, subscribe and serve what it does, and nothing else. Names are those of the
launch files without a namespace; where inputs are remapped, so must they be in the policy.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from robot_perception.pipeline.perception import FORECAST, REVISIT, SEGMENTATION, TASKS
from robot_perception.ros.base_node import PerceptionNode
from robot_perception.ros.transforms import TF, TF_STATIC

NODES: dict[str, tuple[str, ...]] = {
    SEGMENTATION: (SEGMENTATION,),
    REVISIT: (REVISIT,),
    FORECAST: (FORECAST,),
    "perception": TASKS,
}


@dataclass(frozen=True)
class Rights:
    """The full names of what one node uses."""

    publishes: tuple[str, ...]
    subscribes: tuple[str, ...]
    serves: tuple[str, ...]
    calls: tuple[str, ...]


def rights(name: str) -> Rights:
    """What the active node `name` uses with every optional input on; rclpy must be initialised."""
    node = PerceptionNode(name, NODES[name])
    try:
        node.set_parameters([Parameter("use_sim_time", value=True)])
        node.set_parameters([Parameter("labels_wait_s", value=1.0)])
        for trigger in (node.trigger_configure, node.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise RuntimeError(f"{name} does not start")
        found = (
            node.get_publisher_names_and_types_by_node(name, "/"),
            node.get_subscriber_names_and_types_by_node(name, "/"),
            node.get_service_names_and_types_by_node(name, "/"),
            node.get_client_names_and_types_by_node(name, "/"),
        )
        publishes, subscribes, serves, calls = ({n for n, _ in names} for names in found)
        # Where tf2_msgs is installed; the policy is the same everywhere.
        subscribes |= {TF, TF_STATIC}
        return Rights(*(tuple(sorted(n)) for n in (publishes, subscribes, serves, calls)))
    finally:
        node.stop()
        node.destroy_node()


def document(by_node: dict[str, Rights]) -> str:
    """The policy as XML that `ros2 security create_permission` takes."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<policy version="0.2.0">', "  <enclaves>"]
    for name, own in by_node.items():
        lines += [
            f"    <enclave path={quoteattr('/robot_perception/' + name)}>",
            "      <profiles>",
            f'        <profile ns="/" node={quoteattr(name)}>',
        ]
        for kind, right, names in (
            ("topic", "publish", own.publishes),
            ("topic", "subscribe", own.subscribes),
            ("service", "reply", own.serves),
            ("service", "request", own.calls),
        ):
            if names:
                lines.append(f'          <{kind}s {right}="ALLOW">')
                lines += [f"            <{kind}>{n.lstrip('/')}</{kind}>" for n in names]
                lines.append(f"          </{kind}s>")
        lines += ["        </profile>", "      </profiles>", "    </enclave>"]
    return "\n".join([*lines, "  </enclaves>", "</policy>", ""])


def main() -> int:
    rclpy.init()
    try:
        print(document({name: rights(name) for name in NODES}), end="")
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
