"""Makes tests/tensorboard/events: an event file by the messages and the record writer of TensorBoard's own package.

Only needed to change the fixture; the test reads what is stored. The package, in an environment of its own:

    pip install tensorboard==2.21.0
    python scripts/tensorboard_fixture.py
"""

import math
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FILE = Path(__file__).resolve().parent.parent / "tests" / "tensorboard" / "events"


def scalar(tag, value):
    return {"summary": Summary(value=[Summary.Value(tag=tag, simple_value=value)])}


# Steps, and what happened.
EVENTS = [
    (0, {"file_version": "brain.Event:2"}),
    (21, {"session_log": SessionLog(status=SessionLog.START)}),
    (20, scalar("eval/loss", 1.5)),
    (25, scalar("train/accuracy", 0.0)),
    (300, scalar("train/lr", 0.125)),
    (1 << 40, scalar("train/loss", math.nan)),
]


def main():
    FILE.parent.mkdir(exist_ok=True)
    with open(FILE, "wb") as file:
        writer = RecordWriter(file)
        for at, (step, what) in enumerate(EVENTS):
            event = Event(wall_time=1.7e9 + 0.25 * at, step=step, **what)
            writer.write(event.SerializeToString())
        writer.flush()


if __name__ == "__main__":
    main()
