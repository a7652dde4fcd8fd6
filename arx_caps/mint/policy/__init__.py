# SPDX-License-Identifier: Apache-2.0
"""The policy: what its file says, what it grants, how two of them differ.  Tokens are made in ``tasks``."""
