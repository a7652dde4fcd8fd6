# SPDX-License-Identifier: Apache-2.0
"""Repositories: one class for each kind of row, with its queries and its changes."""
