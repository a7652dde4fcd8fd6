# SPDX-License-Identifier: Apache-2.0
"""Start a program of another vendor so that it reaches nothing of the process that starts it."""

from arx_caps.isolation.choice import HINT as HINT
from arx_caps.isolation.choice import KINDS as KINDS
from arx_caps.isolation.choice import isolate as isolate
from arx_caps.isolation.choice import kind_that_works as kind_that_works
from arx_caps.isolation.program import Program as Program
from arx_caps.isolation.program import account_of as account_of
from arx_caps.isolation.start import Isolation as Isolation
