# SPDX-License-Identifier: Apache-2.0
"""OAuth clients: records, metadata, proofs, redirects, registration."""
