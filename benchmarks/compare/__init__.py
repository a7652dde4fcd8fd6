# SPDX-License-Identifier: Apache-2.0
"""ARx beside tenuo in each framework that both have an adapter for: ``make compare``."""
