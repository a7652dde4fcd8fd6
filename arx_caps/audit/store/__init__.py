# SPDX-License-Identifier: Apache-2.0
"""The log's database, its index, and the publisher of signed checkpoints.  LOG 1, 2."""
