# SPDX-License-Identifier: Apache-2.0
"""Query the log: records, nodes and counts, and their export formats.  LOG 3."""
