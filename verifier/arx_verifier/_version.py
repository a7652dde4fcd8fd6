# SPDX-License-Identifier: Apache-2.0
"""The version of the installed package.  A module of its own: its import is slow, and no other name needs it."""

from importlib.metadata import version
from typing import Final

__version__: Final = version("arx-verifier")
