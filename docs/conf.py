"""The documentation site: Sphinx, MyST and Furo, without requests to other hosts."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from mlp_mixer import __version__  # noqa: E402 - after the path is set

project = "mlp-mixer"
release = __version__
copyright = "the authors of mlp-mixer, Apache-2.0"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",
]

exclude_patterns = ["_build", "_ext", "log.md", "notebooks"]
myst_enable_extensions = ["colon_fence"]
# A line may begin with "% of the images".
myst_disable_syntax = ["myst_line_comment"]
myst_heading_anchors = 4
nitpicky = False

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"mlp-mixer {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
