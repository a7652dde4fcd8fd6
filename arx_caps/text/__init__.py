# SPDX-License-Identifier: Apache-2.0
"""Caveats, records and trails as text for people."""
