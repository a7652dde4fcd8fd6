# SPDX-License-Identifier: Apache-2.0
"""Checks of the models in ``docs/models`` with SPIN: ``make models``."""
