# SPDX-License-Identifier: Apache-2.0
"""Laws of the parsers, tried on inputs that a fuzzer makes: ``make fuzz``.  ``make test`` tries the corpus alone."""
