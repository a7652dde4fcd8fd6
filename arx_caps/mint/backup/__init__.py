# SPDX-License-Identifier: Apache-2.0
"""Back up a realm while its mints serve, restore it, and try a backup.  CONTROL 8.  Kills are in the store alone."""
