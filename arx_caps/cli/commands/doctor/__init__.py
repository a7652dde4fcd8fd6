# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: check a realm's folder, store, kills, mint and witnesses, or an OAuth URL.  SPEC 10, LOG 1."""
