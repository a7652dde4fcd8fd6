# SPDX-License-Identifier: Apache-2.0
"""Notifications: signed webhooks for what operators must hear, and heartbeats. CONTROL 7."""
