# SPDX-License-Identifier: Apache-2.0
"""The login of people, by OpenID Connect."""
