# SPDX-License-Identifier: Apache-2.0
"""The mint's HTTP API: routes, problems, pages, metrics.  SPEC 16, 22."""
