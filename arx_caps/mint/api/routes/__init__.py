# SPDX-License-Identifier: Apache-2.0
"""The routes, one module for each noun of the API.  SPEC 16 to 22."""
