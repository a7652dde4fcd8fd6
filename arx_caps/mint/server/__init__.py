# SPDX-License-Identifier: Apache-2.0
"""Processes of the mint: create a realm, serve it, supervise it."""
