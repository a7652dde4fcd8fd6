# SPDX-License-Identifier: Apache-2.0
"""``arx policy``: policies checked, asked, drafted, compared and put in force.  CONTROL 2."""
