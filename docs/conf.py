"""Settings of the documentation: ``pip install -e ".[docs]" && sphinx-build -W -b html docs docs/_build``."""

from importlib.metadata import version as installed_version

project = "lightning-dynprune"
author = "The lightning-dynprune authors"
project_copyright = "The lightning-dynprune authors, Apache-2.0"
release = installed_version("lightning-dynprune")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"lightning-dynprune {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
# Fields of dataclasses are described once, under "Args" or "Attributes" of their class.
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
