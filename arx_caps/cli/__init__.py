# SPDX-License-Identifier: Apache-2.0
"""The ``arx`` command: ``app`` has its frame, ``commands`` what each noun runs, the other modules what these share."""
