# SPDX-License-Identifier: Apache-2.0
"""What each noun of ``arx`` runs: one file, or one package, for each.  None imports another noun's."""
