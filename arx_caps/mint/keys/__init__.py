# SPDX-License-Identifier: Apache-2.0
"""Keys: root keys, their schedule and rotation, and public keys of issuers. SPEC 9."""
