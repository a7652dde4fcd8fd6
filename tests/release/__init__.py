# SPDX-License-Identifier: Apache-2.0
"""A release: how it is made, and how its users verify it.  ``make try-release`` runs these tests."""
