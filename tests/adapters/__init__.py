# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapters, each with its framework: ``make adapters``.  ``make test`` leaves them out."""
