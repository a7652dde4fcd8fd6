# SPDX-License-Identifier: Apache-2.0
"""The realm's audit log at its mint: what it signs, and what the mint itself records.  LOG 1, 2."""
