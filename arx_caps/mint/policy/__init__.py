# SPDX-License-Identifier: Apache-2.0
"""The policy: parsing, grants, explanations, comparison.  ``tasks`` makes tokens of grants."""
