# SPDX-License-Identifier: Apache-2.0
"""The pages of login and consent in a real browser."""
