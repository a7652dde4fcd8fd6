# SPDX-License-Identifier: Apache-2.0
"""What all HTML of a mint is made of: ``templates/base.html``, and how templates are rendered."""
