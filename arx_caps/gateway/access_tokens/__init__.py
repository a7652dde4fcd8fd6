# SPDX-License-Identifier: Apache-2.0
"""Calls with an OAuth access token: the resource, approvals, sealed calls."""
