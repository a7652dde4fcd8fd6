# SPDX-License-Identifier: Apache-2.0
"""What may serve the mint's HTTP: each parser with its event loop, as it is installed."""

from typing import Final

from arx_caps.http.connections import BoundedProtocol
from arx_caps.http.h11_protocol import BoundedH11
from arx_caps.http.httptools_protocol import BoundedHttpTools

PARSERS: Final[dict[str, tuple[type[BoundedProtocol], str]]] = {
    "h11": (BoundedH11, "asyncio"),
    "httptools": (BoundedHttpTools, "uvloop"),
}
# Runs a module in a process in which neither httptools nor uvloop is installed.
PLAIN: Final = """
import runpy, sys
sys.modules["httptools"] = sys.modules["uvloop"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
