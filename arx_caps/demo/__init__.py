# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end, in one process tree on one machine: ``python -m arx_caps.demo``."""
