# SPDX-License-Identifier: Apache-2.0
"""The token: bytes, chain, caveats, keys, call proofs and discharges.  SPEC 2 to 9."""
