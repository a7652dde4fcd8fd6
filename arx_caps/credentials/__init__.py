# SPDX-License-Identifier: Apache-2.0
"""Key files, JOSE, access tokens and where secrets are read from."""
