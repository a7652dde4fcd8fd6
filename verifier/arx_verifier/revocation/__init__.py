# SPDX-License-Identifier: Apache-2.0
"""What was killed or frozen, up to which moment that is known, and who follows it.  SPEC 10."""
