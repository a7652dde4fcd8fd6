# SPDX-License-Identifier: Apache-2.0
"""Resealings that are killed in the middle: ``python -m tests.mint.killed_reseals``.

Reads an order a line, and for each forks a process that seals a realm's root keys anew and kills itself (SIGKILL)
before the n-th step: a file that is put in its place or taken away, a change or a commit on its way to the database.
Writes whether it came to its end.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from arx_caps.mint.keys import root_keys
from arx_caps.mint.keys.reseal import reseal
from arx_caps.settings.realm import Realm

LEFT = 0
WRITES = ("INSERT", "UPDATE")


def step(*_: Any, **__: Any) -> None:
    """One more step."""
    global LEFT
    LEFT -= 1
    if LEFT == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def watch() -> None:
    """Have every step counted."""
    root_keys.SCRYPT_COST = 2**14  # type: ignore[misc]
    event.listen(Engine, "before_cursor_execute", lambda _, __, sql, *___: step() if sql[:6] in WRITES else None)
    event.listen(Engine, "commit", step)
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def counted(self: Path, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            step()
            return _real(self, *args, **kwargs)

        setattr(Path, name, counted)


def main() -> None:
    """Take orders until there are no more."""
    global LEFT
    watch()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            LEFT = order["step"]
            try:
                reseal(Realm.open(order["realm"]), passphrase=order["passphrase"], new_passphrase=order["new"])
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
