# SPDX-License-Identifier: Apache-2.0
"""ARx around its verifier: the agents' side, the mint, revocation and the operators' tools."""
