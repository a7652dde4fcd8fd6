# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser, before a realm that is at work: ``make console`` and ``make screenshots``."""
