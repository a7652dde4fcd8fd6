# SPDX-License-Identifier: Apache-2.0
"""``arx token``: read, delegate and explain tokens, offline.  SPEC 2 to 8."""
