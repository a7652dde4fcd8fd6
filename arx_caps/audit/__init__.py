# SPDX-License-Identifier: Apache-2.0
"""The audit log: a Merkle tree of records in C2SP's formats, and its verification offline.  LOG 1."""
