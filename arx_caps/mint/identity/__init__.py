# SPDX-License-Identifier: Apache-2.0
"""Authenticate callers and the subjects they act for, by proofs and issuers' tokens, before a grant.  CONTROL 1."""
