# SPDX-License-Identifier: Apache-2.0
"""Routes of what happened: audit log, trails, totals, webhooks."""
