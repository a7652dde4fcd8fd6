# SPDX-License-Identifier: Apache-2.0
"""The routes, one module for each noun of the API.  CONTROL 1 to 4, LOG 1 to 3."""
