# SPDX-License-Identifier: Apache-2.0
"""Python drives the TypeScript verifier.  Each test needs Node, and is slow."""
