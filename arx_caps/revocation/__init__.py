# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets of a realm, and learn which verifiers confirmed it.  SPEC 10."""
