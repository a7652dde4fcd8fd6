# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.routes``."""

from tests.routes.run import main

main()
