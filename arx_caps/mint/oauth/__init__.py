# SPDX-License-Identifier: Apache-2.0
"""The authorization server for stock OAuth clients, whose access tokens stand for tasks; approvals.  CONTROL 5."""
