"""Sphinx configuration."""

import sandlock_async

project = "sandlock-async"
author = "The sandlock-async authors"
copyright = author
release = sandlock_async.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpick_ignore_regex = [("py:.*", ".*")]
myst_heading_anchors = 3
