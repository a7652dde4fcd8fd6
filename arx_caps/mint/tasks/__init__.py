# SPDX-License-Identifier: Apache-2.0
"""Sessions, tasks and approvals, from issue to revocation. SPEC 4, 6, 10, 15, CONTROL 2."""
