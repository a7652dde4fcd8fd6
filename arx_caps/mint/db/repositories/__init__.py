# SPDX-License-Identifier: Apache-2.0
"""One class for each kind of row: its queries and its changes."""
