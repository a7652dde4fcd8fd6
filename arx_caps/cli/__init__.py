# SPDX-License-Identifier: Apache-2.0
"""The ``arx`` command.  Its front door is ``main``; each noun has a file, loaded when it is used."""

from arx_caps.cli.app import main

__all__ = ["main"]
