# SPDX-License-Identifier: Apache-2.0
"""What a request to a service of others means: catalogues of routes, and git's lists of commands.  SPEC 8.4"""
