# SPDX-License-Identifier: Apache-2.0
"""HTTP at both ends: one client, the server's bounds, guarded fetches, event streams."""
