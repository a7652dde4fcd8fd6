# SPDX-License-Identifier: Apache-2.0
"""What every test can ask for."""

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from arx_verifier._native import about_build
from tests import each_run

each_run.prepare()

# The modules and items of all tests live until the end.  Each full collection of garbage walks them: that took a third
# of the time in which tests are collected, and a tenth of that in which they run.
gc.disable()

pytest_plugins = [
    "tests.servers",
    "tests.mint.harness",
    "tests.mint.approvals",
    "tests.mint.login",
    "tests.mint.receiver",
]

# A shell's background job ignores Ctrl-C, and what it starts would go on ignoring it: tests send it to the command.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long a machine takes over an example is no finding, however many processes share it.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Share the work of a first run among its workers."""
    each_run.share_rewriting(config)


def pytest_collection_finish() -> None:
    """Let the collector of garbage see from now on only what tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_note_of_a_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the notes of this run's ledgers that no start has taken: their folders stay for a while."""
    yield
    for note in Path("/dev/shm").glob("arx-ledger-*"):
        with contextlib.suppress(OSError):
            folder = Path(os.fsdecode(note.read_bytes()))
            if tmp_path_factory.getbasetemp() in folder.parents:
                note.unlink()


def pytest_report_header() -> str:
    """Which build of the verifier is tested."""
    return f"arx-verifier: {about_build()}"
