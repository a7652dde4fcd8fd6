# SPDX-License-Identifier: Apache-2.0
"""Notifications: signed webhooks for approvals that wait, kills, a halted log and late verifiers. CONTROL 7."""
