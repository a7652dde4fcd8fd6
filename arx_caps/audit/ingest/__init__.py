# SPDX-License-Identifier: Apache-2.0
"""What the mint does with a batch before the database: parse entries, order uploads, count records.  LOG 2.3."""
