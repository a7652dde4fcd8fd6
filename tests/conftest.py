# SPDX-License-Identifier: Apache-2.0
"""What every test can ask for."""

pytest_plugins = ["tests.servers"]
