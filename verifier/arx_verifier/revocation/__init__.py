# SPDX-License-Identifier: Apache-2.0
"""The revocation epoch: kills and freezes, and the follower that keeps a verifier's view current.  SPEC 10."""
