# SPDX-License-Identifier: Apache-2.0
"""The demos that ``arx demo`` plays with real processes; each module is a program of a user of ARx, to copy from."""
