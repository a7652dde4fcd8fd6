# SPDX-License-Identifier: Apache-2.0
"""The decision whether a presented token allows a call; the only code that builds a grant.  SPEC 11."""
