# SPDX-License-Identifier: Apache-2.0
"""Callers and the people they act for: authenticated before anything is granted.  CONTROL 1."""
