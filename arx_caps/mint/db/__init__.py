# SPDX-License-Identifier: Apache-2.0
"""The mint's database: tables, transactions and repositories. HTTP is not in here."""
