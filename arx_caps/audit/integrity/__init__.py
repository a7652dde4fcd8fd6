# SPDX-License-Identifier: Apache-2.0
"""Verify the log's database against the signed files, rebuild it from them, prune and erase.  LOG 1.9 to 1.11."""
