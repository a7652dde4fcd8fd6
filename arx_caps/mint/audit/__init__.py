# SPDX-License-Identifier: Apache-2.0
"""The realm's audit log at its mint, and the mint's own records in it. LOG 1, 2."""
