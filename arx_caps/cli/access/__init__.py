# SPDX-License-Identifier: Apache-2.0
"""How a command gets to a mint: place, credentials, sign-in, secret files."""
