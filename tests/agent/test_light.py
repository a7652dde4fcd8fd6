# SPDX-License-Identifier: Apache-2.0
"""An agent's side installs and starts light."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.servers

PROGRAM = """
import sys
if {without}:
    sys.modules["httpx2"] = None  # as if it were not installed
import httpx
from arx_caps.agent import Agent, ArxAuth, Bundle, Session, Task
heavy = {{"redis", "starlette", "uvicorn", "sqlalchemy", "arx_caps.mint", "arx_caps.revocation"}} & set(sys.modules)
assert not heavy, heavy
assert issubclass(ArxAuth, httpx.Auth)
if not {without}:
    import httpx2
    assert issubclass(ArxAuth, httpx2.Auth)
"""


@pytest.mark.parametrize("without", [False, True])
def test_the_agents_side_needs_no_server_library(without: bool) -> None:
    """
    Importing it loads no web framework, database or store, and works with or without httpx2.
    """
    subprocess.run([sys.executable, "-c", PROGRAM.format(without=without)], check=True, timeout=60)
