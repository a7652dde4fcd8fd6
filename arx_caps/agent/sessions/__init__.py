# SPDX-License-Identifier: Apache-2.0
"""Agents, their sessions, and the mint they open them at."""
