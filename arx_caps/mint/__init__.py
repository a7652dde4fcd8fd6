# SPDX-License-Identifier: Apache-2.0
"""The mint: it authenticates callers, issues tokens and revokes them. CONTROL 1.

No tool call passes through it.  Each of its packages imports only those before it, in the order of ``MINT_ORDER`` in
tests/house/test_package_graph.py; CONTRIBUTING.md has what is in each.
"""
