# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapters, each with its framework: ``make adapters``.  ``make test`` leaves them out."""

import sys

if "pytest" in sys.modules:  # and no process of a service
    from tests import each_run

    each_run.prepare()
