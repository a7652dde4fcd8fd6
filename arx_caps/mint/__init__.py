# SPDX-License-Identifier: Apache-2.0
"""The mint: who an agent is, what it may start, and how it ends; never on the path of a tool call.  SPEC 16."""
