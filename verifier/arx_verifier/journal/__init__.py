# SPDX-License-Identifier: Apache-2.0
"""Decisions: their facts, their records, and the local journal that keeps them.  SPEC 12."""
