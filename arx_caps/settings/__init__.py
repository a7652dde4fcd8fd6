# SPDX-License-Identifier: Apache-2.0
"""What a realm is configured with: its file, limits, durations."""
