# SPDX-License-Identifier: Apache-2.0
"""Benchmarks; docs/performance.md says what each measures."""
