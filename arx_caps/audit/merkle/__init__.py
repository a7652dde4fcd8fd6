# SPDX-License-Identifier: Apache-2.0
"""The signed log as files: Merkle tree, checkpoints, tiles, proofs, and their offline verification.  LOG 1.1-1.5."""
