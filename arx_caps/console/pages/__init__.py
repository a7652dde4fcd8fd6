# SPDX-License-Identifier: Apache-2.0
"""The console's pages, one module for each entry of the menu."""
