# SPDX-License-Identifier: Apache-2.0
"""What the applications of ``service_contract`` have in common: what they note, their work, and their log.

It runs in the process of a service, whose working folder is the test's; it needs the verifier alone.
"""

import json
import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CALLS, LOG = "calls", "everything.log"


def note(text: str) -> None:
    """Add a line to the file of what the service did; all its processes write there."""
    with Path(CALLS).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def watching() -> dict[str, Any]:
    """Return the arguments of a guard that watches, if the test has written them; else none."""
    path = Path("watch.json")
    return json.loads(path.read_text()) if path.exists() else {}


def holder(held: Mapping[str, Any]) -> str:
    """Return who calls, or in watch mode why the call would be refused.

    Args:
        held: The scope, or the environ.
    """
    watched = held.get("arx.watch")
    return str(held["arx"].holder) if watched is None else f"would refuse: {watched.code}"


def events() -> Iterator[bytes]:
    """Yield the parts of an answer that no caller reads to its end."""
    try:
        while True:
            yield b"event" + b" " * 100
            time.sleep(0.01)
    finally:
        note("events ended")


def work(grant: Any) -> None:
    """Work in many steps, each of which asks whether it may go on."""
    step = 0
    try:
        while True:
            grant.recheck()
            step += 1
            note(f"work {step}")
            time.sleep(0.01)
    finally:
        note("work ended")


def fail(amount: int) -> None:
    """Fail in a frame below the application's own."""
    raise RuntimeError(f"no refund of {amount}")


class _Everything(logging.Formatter):
    """Exceptions with the local variables of each frame, as error trackers collect them."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - of logging
        return "".join(traceback.TracebackException(*ei, capture_locals=True).format())


def log_everything() -> None:
    """Write what every library logs at DEBUG to a file, with the local variables of each exception."""
    handler, root = logging.FileHandler(LOG), logging.getLogger()
    handler.setFormatter(_Everything("%(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "gunicorn.access", "gunicorn.error"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
