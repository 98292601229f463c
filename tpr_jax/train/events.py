"""Writes scalars for TensorBoard, with tensorboardX's records and messages but without its thread.

The caller's own thread writes them, so that a full disk raises an ordinary OSError; `SummaryWriter` leaves
files to a thread that dies with a traceback of its own.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tpr_jax.utils.imports import without

# It imports PyTorch if installed, as on Colab, which takes seconds, and uses it for graphs only.
with without("torch"):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter


class EventWriter(RecordWriter):
    """Writes framed records, and leaves fsync to the system: to a mounted bucket it would upload the file."""

    _writer: Any  # the open file, which the base class does not annotate

    def flush(self) -> None:
        """Passes what is buffered to the system."""
        self._writer.flush()


def open_events(folder: Path) -> EventWriter:
    """Opens a new event file in `folder`, named so that TensorBoard finds it and orders it by time."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    writer = EventWriter(str(folder / name))
    _append(writer, Event(wall_time=now, file_version="brain.Event:2"))
    return writer


def write_scalars(writer: EventWriter, step: int, scalars: dict[str, float]) -> None:
    """Appends one event with a value for each tag, and flushes it."""
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    _append(writer, Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _append(writer: EventWriter, event: Event) -> None:
    writer.write(event.SerializeToString())
    writer.flush()
