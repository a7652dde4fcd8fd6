# SPDX-License-Identifier: Apache-2.0
"""A rehearsal of a realm's bad days: real servers, under load, with each of their disks lost once."""
