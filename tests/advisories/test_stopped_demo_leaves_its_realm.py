# SPDX-License-Identifier: Apache-2.0
"""An operator who stopped a demo left its realm running, with every key in its folder.

At SIGTERM or at the end of its terminal the demo's own process went, and its mint, its store, its services and the
folder with root key, operator's key and service keys stayed until a user found them.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.servers import child, until

pytestmark = pytest.mark.servers


def running_below(folder: str) -> list[str]:
    """Processes of this machine whose environment or command line names the folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            document = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if folder.encode() in document:
            found.append(document.replace(b"\0", b" ")[:80].decode(errors="replace"))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_stopped_leaves_nothing(number: signal.Signals) -> None:
    """Every process ends and the folder is gone, at whatever moment of its start or its play."""
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        command = [sys.executable, "-m", "arx_caps.cli", "demo"]
        environment = {**os.environ, "TMPDIR": folder}
        with child(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout is not None
            until(lambda: list(Path(folder).glob("arx-demo-*/realm/mint.db")), 60)
            if number == signal.SIGHUP:
                while "started" not in demo.stdout.readline():
                    pass
            demo.send_signal(number)
            assert demo.wait(60) == 128 + number
        assert list(Path(folder).glob("arx-demo-*")) == []
        until(lambda: not running_below(folder))
