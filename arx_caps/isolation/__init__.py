# SPDX-License-Identifier: Apache-2.0
"""Start a program of another vendor so that it reaches nothing of the process that starts it."""

from arx_caps.isolation.choice import HINT, KINDS, isolate, kind_that_works
from arx_caps.isolation.program import Program, account_of
from arx_caps.isolation.start import Isolation

__all__ = ["HINT", "KINDS", "Isolation", "Program", "account_of", "isolate", "kind_that_works"]
