# SPDX-License-Identifier: Apache-2.0
"""The tests; ``servers`` and other shared parts are imported as ``tests.servers``."""
