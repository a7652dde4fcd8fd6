# SPDX-License-Identifier: Apache-2.0
"""The constraints of arguments and the rules of tools, compiled and tested.  SPEC 7."""
