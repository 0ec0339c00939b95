"""The lifecycle node around a pipeline: messages in, one step, messages out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from robot_perception.core.config import (
    ForecastConfig,
    RevisitConfig,
    RunConfig,
    SegmentationConfig,
)
from robot_perception.core.types import U16, Frame, ImageFrame, Scan
from robot_perception.pipeline import memory, outputs
from robot_perception.pipeline.messages import serialize
from robot_perception.pipeline.perception import (
    FORECAST,
    REVISIT,
    SEGMENTATION,
    Pipeline,
    Tasks,
)
from robot_perception.ros import diagnostics, map_services, parameters, prompts, transforms
from robot_perception.ros.labels import LabelsBuffer
from robot_perception.ros.publishers import Publishers
from robot_perception.ros.stream import Stream
from robot_perception.ros.worker import Received, Skipped, now
from robot_perception.wire import decode, decode_labels

_CONFIGS = {SEGMENTATION: SegmentationConfig, REVISIT: RevisitConfig, FORECAST: ForecastConfig}

IMAGE, POINTS, CAMERA_INFO, ODOM = "image", "points", "camera_info", "odom"
# How often unused memory goes back to the system.
_GIVE_BACK_S = 5.0
# How long a step that is on its way may take to end.
_END_S = 1.2
_IMAGE_TYPE = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}


class PerceptionNode(LifecycleNode):
    """Runs `tasks` of the pipeline on live topics.

    With one task, outputs are private (`~/labels`) and parameters bare; with several, they carry
    the task's name (`segmentation/labels`, `segmentation.backend`): absolute topic names are those
    of the separate nodes.
    """

    def __init__(self, name: str, tasks: tuple[str, ...]) -> None:
        super().__init__(name)
        self._task_names = tasks
        self._alone = len(tasks) == 1
        for task in tasks:
            parameters.declare(self, _CONFIGS[task], self._prefix(task))
        parameters.declare(self, RunConfig)
        self._run = RunConfig()
        self._pipeline: Pipeline | None = None
        self._active = False
        self._outputs: Publishers | None = None
        self._streams: dict[str, Stream] = {}
        self._labels = LabelsBuffer()
        self._image_lock = threading.Lock()
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_clock_jump,
        )
        if REVISIT in tasks:
            for service in map_services.CALLS:
                self.create_service(
                    Trigger, self._topic(REVISIT, service), partial(self._serve_map, service)
                )

    # Transitions. rclpy swallows what a transition raises, so each reports for itself.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:  # whatever it is: the node stays, and can be configured again
            self.get_logger().error(f"not configured: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._labels = LabelsBuffer()
        try:
            # Sensors last: subscriptions are announced in order, and who knows of a node's sensors
            # knows then of all that its frames wait for.
            for stream in sorted(self._streams.values(), key=lambda stream: stream.threaded):
                stream.start()
        except Exception as error:
            self.get_logger().error(f"not activated: {error}")
            self._deactivate()
            return TransitionCallbackReturn.FAILURE
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> bool:
        """End the workers and let go of everything, in whatever state the node is.

        False where a step still goes on in the background.
        """
        ended = self._deactivate()
        self._release()
        return ended

    def _configure(self) -> None:
        self._run = parameters.read(self, RunConfig)
        configs: dict[str, Any] = {
            task: parameters.read(self, _CONFIGS[task], self._prefix(task))
            for task in self._task_names
        }
        # A loop of simulated time replays the same drive; a real clock set back does not.
        sim_time = bool(self.get_parameter("use_sim_time").value)
        self._pipeline = Pipeline(
            Tasks(**configs),
            sim_time,
            self._run.torch_threads,
            self._run.on_device_fault,
            self._run.odom_frame,
        )
        self._faults: dict[str, int] = {}
        self._gave_back = now()
        self._pipeline.warm_up()
        self._outputs = Publishers(self, self._pipeline.tasks, self._topic)
        self._processed = self.create_publisher(Header, "~/processed", 50)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(
            self._run.diagnostics_period_s,
            self._report,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._make_streams()
        self.get_logger().info(f"configured: {self._pipeline.describe()}")

    def _make_streams(self) -> None:
        tasks = set(self._task_names)
        if tasks & {SEGMENTATION, REVISIT}:
            self._add_stream(IMAGE, _IMAGE_TYPE[self._run.image_transport], threaded=True)
            self._add_stream(CAMERA_INFO, "sensor_msgs/msg/CameraInfo", threaded=False)
        if FORECAST in tasks:
            self._add_stream(POINTS, "sensor_msgs/msg/PointCloud2", threaded=True)
        if SEGMENTATION in tasks:
            for topic in (prompts.PROMPT_POINT, prompts.CLICKED_POINT):
                handle = partial(self._take_prompt, topic == prompts.PROMPT_POINT)
                self._add_stream(topic, prompts.TYPE, threaded=False, handle=handle)
        if tasks & {REVISIT, FORECAST}:
            self._add_stream(ODOM, "nav_msgs/msg/Odometry", threaded=False)
        self._streams |= transforms.streams(self, self._step_small, self._max_bytes)
        if REVISIT in tasks and SEGMENTATION not in tasks and self._run.labels_wait_s > 0:
            self._add_stream(
                "labels",
                "sensor_msgs/msg/Image",
                threaded=False,
                handle=self._take_labels,
                qos=QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE),
            )

    def _add_stream(
        self,
        role: str,
        type_name: str,
        threaded: bool,
        handle: Callable[[Received], None] | None = None,
        qos: QoSProfile = qos_profile_sensor_data,
    ) -> None:
        size = self._run.inbox_size if threaded else 1
        handle = handle or partial(self._handle, role, type_name)
        self._streams[role] = Stream(
            self, role, type_name, handle, size, threaded, self._max_bytes, qos
        )

    def _deactivate(self) -> bool:
        self._active = False
        streams = list(self._streams.values())
        for stream in streams:
            stream.close()
        # One deadline for all of them: a node ends in time however many inputs it has.
        end = now() + _END_S
        ended = [stream.join(max(0.0, end - now())) for stream in streams]
        if self._pipeline is not None:
            self._pipeline.expect_restart()
        return all(ended)

    def destroy_node(self) -> None:
        """As rclpy does it, and the state machine too, which would keep the node in DDS."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        for name, destroy in (
            ("_processed", self.destroy_publisher),
            ("_diagnostics", self.destroy_publisher),
            ("_timer", self.destroy_timer),
        ):
            entity = self.__dict__.pop(name, None)
            if entity is not None:
                destroy(entity)
        self._streams.clear()
        self._pipeline = None

    # The way of a message.

    def _handle(self, role: str, type_name: str, received: Received) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            raise Skipped("stopped")
        is_sensor = role in (IMAGE, POINTS)
        try:
            if is_sensor and not self._wanted(role):
                raise Skipped("no subscriber")
            with pipeline.stopwatch.time(f"decode {role}"):
                frame = decode(received.message, type_name, self._max_bytes)
            if isinstance(frame, ImageFrame | Scan):
                self._step(pipeline, role, frame, received)
            else:
                pipeline.step(frame)
        finally:
            if is_sensor and self._processed.get_subscription_count():
                self._processed.publish(serialize(received.message.header))

    def _step(
        self, pipeline: Pipeline, role: str, frame: ImageFrame | Scan, received: Received
    ) -> None:
        labels = self._await_inputs(pipeline, frame)
        if role == IMAGE:
            with self._image_lock:
                results = pipeline.step(frame, self._wanted(role), labels)
        else:
            results = pipeline.step(frame, self._wanted(role))
        for result in results:
            task = outputs.task_of(result)
            with pipeline.stopwatch.time(f"publish {task}"):
                if self._outputs is not None:
                    self._outputs.publish(result, frame)
            pipeline.stopwatch.add(f"receipt to {task}", (now() - received.at) * 1e3)

    def _wanted(self, role: str) -> set[str]:
        """The tasks on this input that somebody listens to; revisit builds its map regardless."""
        listened = self._outputs.listened() if self._outputs is not None else set()
        of_role = {FORECAST} if role == POINTS else {SEGMENTATION, REVISIT}
        return (listened | {REVISIT}) & of_role & set(self._task_names)

    def _await_inputs(self, pipeline: Pipeline, frame: ImageFrame | Scan) -> U16 | None:
        """Wait, within bounds, for this frame's odometry and labels; return the labels if any."""
        odometry = self._streams.get(ODOM)
        if odometry is not None and odometry.has_publisher:
            with pipeline.stopwatch.time("wait for odom"):
                pipeline.poses.odometry.wait_for(frame.stamp_ns, self._run.odom_wait_s)
        tf = self._streams.get(transforms.TF)
        if tf is not None and tf.has_publisher:
            with pipeline.stopwatch.time("wait for tf"):
                pipeline.poses.wait_for_transform(frame, self._run.odom_wait_s)
        if not isinstance(frame, ImageFrame) or "labels" not in self._streams:
            return None
        with pipeline.stopwatch.time("wait for labels"):
            return self._labels.wait_for(frame.stamp_ns, self._run.labels_wait_s)

    def _step_small(self, frame: Frame) -> None:
        if self._pipeline is not None:
            self._pipeline.step(frame)

    def _take_prompt(self, is_pixel: bool, received: Received) -> None:
        if self._pipeline is None or self._outputs is None:
            raise Skipped("stopped")
        publisher = self._outputs.of(SEGMENTATION, "prompt_mask")
        if not publisher.get_subscription_count():
            raise Skipped("no subscriber")
        publisher.publish(
            prompts.answer(self._pipeline, received.message, self._image_lock, is_pixel)
        )

    def _take_labels(self, received: Received) -> None:
        self._labels.add(*decode_labels(received.message, self._max_bytes))

    def _on_clock_jump(self, jump: Any) -> None:
        if self._pipeline is not None:
            self.get_logger().info("the clock jumped back: starting anew with the next frame")
            self._pipeline.expect_restart()

    def _report(self) -> None:
        pipeline = self._pipeline
        if pipeline is None or not self._active:
            return
        statuses = [s.status(self._run.stale_after_s) for s in self._streams.values()]
        listened = self._outputs.subscribers() if self._outputs is not None else {}
        latency = diagnostics.latency_status(
            self.get_name(),
            pipeline.stopwatch.percentiles(),
            {**pipeline.describe(), **pipeline.self_scores(), **listened},
        )
        faults, before = pipeline.guard.counts(), self._faults
        self._faults = faults
        device = diagnostics.device_status(self.get_name(), faults, before)
        found = [status for status in statuses if status is not None]
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.array(stamp, [*found, latency, device]))
        if now() - self._gave_back >= _GIVE_BACK_S:
            self._gave_back = now()
            memory.give_back()

    def _serve_map(
        self, name: str, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        with self._image_lock:
            response.success, response.message = map_services.call(name, self._pipeline)
        return response

    @property
    def _max_bytes(self) -> int:
        return self._run.max_message_mb * 2**20

    def _prefix(self, task: str) -> str:
        return "" if self._alone else f"{task}."

    def _topic(self, task: str, name: str) -> str:
        return f"~/{name}" if self._alone else f"{task}/{name}"
