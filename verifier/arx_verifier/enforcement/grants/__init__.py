# SPDX-License-Identifier: Apache-2.0
"""The life of a granted call, on an event loop and in threads."""
