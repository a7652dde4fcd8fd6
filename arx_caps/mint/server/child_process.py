# SPDX-License-Identifier: Apache-2.0
"""What the process of a mint and the one that supervises it agree on: variables, exit codes, the time of a stop.

It imports nothing, so that the supervisor loads no mint.
"""

from typing import Final

PROGRAM: Final = "arx_caps.mint.server.serve"  # the module that serves a mint, as a program
STORE_VARIABLE: Final = "ARX_STORE_URL"
SETTINGS_EXIT: Final = 2  # an operator must change something first
LATER_EXIT: Final = 3  # a retry may help: a store or a disk did not answer
GRACE_S: Final = 10  # for running requests at a stop: as long as one may take to arrive
