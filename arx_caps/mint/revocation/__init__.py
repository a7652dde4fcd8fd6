# SPDX-License-Identifier: Apache-2.0
"""The mint's side of the revocation store: which history it trusts, which freezes it must have.  SPEC 10."""
