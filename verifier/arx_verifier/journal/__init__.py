# SPDX-License-Identifier: Apache-2.0
"""Decisions, and the local record of them.  SPEC 12, 15.3."""
