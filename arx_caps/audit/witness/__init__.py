# SPDX-License-Identifier: Apache-2.0
"""Witnesses: cosign a log's checkpoints, serve a witness, ask one.  LOG 1.6."""
