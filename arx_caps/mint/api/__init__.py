# SPDX-License-Identifier: Apache-2.0
"""The mint's HTTP API: routes, problems, pages, metrics.  CONTROL 1, 4."""
