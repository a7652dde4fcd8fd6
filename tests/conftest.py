# SPDX-License-Identifier: Apache-2.0
"""What every test can ask for."""

import signal

from hypothesis import HealthCheck, settings

from arx_verifier._native import about_build
from tests import each_run

each_run.prepare()

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


def pytest_report_header() -> str:
    """Which build of the verifier is tested."""
    return f"arx-verifier: {about_build()}"
