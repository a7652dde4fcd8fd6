# SPDX-License-Identifier: Apache-2.0
"""The token: bytes, chain of signatures, caveats, the proof of a call, discharges.  SPEC 2 to 9."""
