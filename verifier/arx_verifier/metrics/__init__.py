# SPDX-License-Identifier: Apache-2.0
"""Metrics of the verifiers of a process, and what a family of metrics is."""
