# SPDX-License-Identifier: Apache-2.0
"""Tables of who acts: agents, services, operators and their keys."""
