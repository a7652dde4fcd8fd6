# SPDX-License-Identifier: Apache-2.0
"""Start a program of another vendor so that it reaches nothing of the process that starts it."""
