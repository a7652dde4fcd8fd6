# SPDX-License-Identifier: Apache-2.0
"""What a rule says of a tool and its arguments, and the tests that are made of it.  SPEC 7."""
