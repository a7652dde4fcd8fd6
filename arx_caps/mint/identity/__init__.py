# SPDX-License-Identifier: Apache-2.0
"""Authenticate callers and the subjects they act for, before anything is granted.  CONTROL 1."""
