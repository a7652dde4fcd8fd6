# SPDX-License-Identifier: Apache-2.0
"""SQL engines, bounded waits for their commits, and room on the disk."""
