# SPDX-License-Identifier: Apache-2.0
"""A server whose clock is wrong."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.servers import listens, until
from tests.topologies.fleet import Server, wait_for


@contextlib.contextmanager
def shifted(server: Server, clock: str) -> Iterator[None]:
    """Run a server with its wall clock so far off, such as ``-25s`` or ``+1d``; it counts seconds as all do."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    wrong = os.environ | {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    server.folder.mkdir(parents=True, exist_ok=True)
    words = ["faketime", "-f", clock, *server.command()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=wrong, start_new_session=True, **quiet)
    try:
        wait_for(server)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # faketime, and the server that is its child
        process.wait()
        until(lambda: not listens(server.port))
