# SPDX-License-Identifier: Apache-2.0
"""Serve a realm's mint together with its console."""

import functools
import sys

from arx_caps.console.app import compose
from arx_caps.mint.server import serve as mint

PROGRAM = "arx_caps.console.serve"  # as in `arx up`, which does not load it
serve = functools.partial(mint.serve, compose=compose)

if __name__ == "__main__":
    sys.exit(mint.main(program=PROGRAM, compose=compose))
