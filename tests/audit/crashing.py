# SPDX-License-Identifier: Apache-2.0
"""Log writers that are killed in their work: ``python -m tests.audit.crashing URL FOLDER``.

Reads a number a line, and for each forks a process that asks how far the log is, sends the next records, and signs what
is new; or, for a number behind an ``r``, makes the database's rows again from the files.  It kills itself (SIGKILL)
before that many steps: a statement or commit on its way to the database, a file on its way to the disk or to its name.
Writes the marks that were acknowledged, and whether the process came to its end.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from arx_caps.audit.ingest.entries import Reader
from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.store.batch_queue import BatchQueue, Taking
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG

AT_ONCE = 90  # records; every third round fills a tile


class Steps:
    """Counts steps, and kills before the last one that is let be."""

    def __init__(self) -> None:
        self.left = 0  # not counting

    def take(self, *_: Any, **__: Any) -> None:
        """One more step."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


STEPS = Steps()


def watch() -> None:
    """Have every step counted."""
    event.listen(Engine, "before_cursor_execute", STEPS.take)
    event.listen(Engine, "commit", STEPS.take)
    for owner, name in ((os, "fsync"), (Path, "replace"), (shutil, "rmtree")):
        setattr(owner, name, counted(getattr(owner, name)))


def counted(what: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that counts as a step."""

    def step(*args: Any, **kwargs: Any) -> Any:
        STEPS.take()
        return what(*args, **kwargs)

    return step


def work(url: str, folder: Path, steps: int, out: int) -> None:
    """Do one round in this process, which ends with it."""
    store = LogStore(url)
    publisher = Publisher(store, LOG, folder, memory=folder.with_name("log.signed"))
    STEPS.left = steps
    mark = store.take(batch_of([]), "s")
    chain = facts(f"s-{mark}")
    made, reader = [decision(n, chain) for n in range(AT_ONCE)], Reader()
    halves = [batch_of(made[: AT_ONCE // 2], mark + 1), batch_of(made[AT_ONCE // 2 :], mark + 1 + AT_ONCE // 2)]
    line, both = BatchQueue(store.writing), [Taking(half, reader.read(half), "s", None) for half in halves]
    for half in both:
        line.stand(half)  # they are taken in one transaction
    for half in both:
        os.write(out, f"{line.take(half)}\n".encode())
    publisher.step()
    os.write(out, b"-1\n" if publisher.halted is None else b"-2\n")
    os._exit(0)


def mend(url: str, folder: Path, steps: int, out: int) -> None:
    """Make the rows again in this process, which ends with it."""
    store = LogStore(url)
    STEPS.left = steps
    reindex(store, folder, LOG.key, by="operator:ann", reason="rows are missing")
    os.write(out, b"-1\n")
    os._exit(0)


def main() -> None:
    """Take numbers until there are no more."""
    watch()
    for line in sys.stdin:
        into, out = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                do = mend if line.startswith("r") else work
                do(sys.argv[1], Path(sys.argv[2]), int(line.removeprefix("r")), out)
            finally:
                os._exit(1)
        os.close(out)
        with os.fdopen(into) as output:
            marks = [int(each) for each in output]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"marks": marks, "code": code}), flush=True)


if __name__ == "__main__":
    main()
