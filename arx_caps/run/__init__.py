# SPDX-License-Identifier: Apache-2.0
"""Run a coding agent under a task: without secrets, in a box, with each request signed by the front beside it."""
