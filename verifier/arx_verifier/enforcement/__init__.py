# SPDX-License-Identifier: Apache-2.0
"""What stands before an application or a function and lets nothing run without a grant.  SPEC 8.4, 11, 13."""
