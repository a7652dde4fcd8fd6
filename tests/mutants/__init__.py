# SPDX-License-Identifier: Apache-2.0
"""Mutants of the verifier: the measure of the vectors."""
