# SPDX-License-Identifier: Apache-2.0
"""``arx apply``: services of one file, enrolled and invited.  CONTROL 3."""
