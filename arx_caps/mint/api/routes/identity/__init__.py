# SPDX-License-Identifier: Apache-2.0
"""Routes of who acts: agents, services, operators and their keys."""
