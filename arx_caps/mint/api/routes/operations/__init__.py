# SPDX-License-Identifier: Apache-2.0
"""Routes of the operator: kills, health, status, policy, console."""
