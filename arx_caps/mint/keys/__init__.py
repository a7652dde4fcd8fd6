# SPDX-License-Identifier: Apache-2.0
"""Root keys: made, sealed, scheduled, rotated; and the public keys of issuers.  SPEC 9, CONTROL 3."""
