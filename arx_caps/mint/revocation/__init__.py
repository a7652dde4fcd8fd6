# SPDX-License-Identifier: Apache-2.0
"""Kills, freezes and thaws, the freezes in force, and the store's history. SPEC 10."""
