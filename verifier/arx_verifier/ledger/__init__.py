# SPDX-License-Identifier: Apache-2.0
"""Budgets: exact amounts, pools, and the ledger that keeps them.  SPEC 17."""
