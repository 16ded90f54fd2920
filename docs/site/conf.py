"""What makes the site of the pages, the notebooks and the docstrings? Sphinx, told here; `make docs` runs it.

The sources are the pages as they stand in the repository, plain Markdown with links between files. What only a site has
is put in while a page is read (`pages.py`): the contents, the docstrings, the shell's help, the diagrams as tables.
Nothing is executed and nothing is fetched: a notebook shows what is stored in it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import docstrings  # noqa: E402
import pages  # noqa: E402

from labkit import __version__  # noqa: E402

project, author, version, release = "labkit", "labkit contributors", __version__, __version__
project_copyright = "labkit contributors, BSD-3-Clause"
language = "en"

# -- which files ------------------------------------------------------------------------------------------------------
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "guests/README.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "dist", "labkit", "tests", "tools", "**/.ipynb_checkpoints"]
html_additional_pages = {"index": "start.html"}  # the root of the site leads to docs/index.html

# -- how they are read ------------------------------------------------------------------------------------------------
extensions = ["myst_nb", "sphinx.ext.autodoc"]
default_role = "code"  # a docstring says `name` as Markdown does
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # a page without a kernel has no use for them; they come from a CDN
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "exclude-members": "__init__, __new__"}
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
show_warning_types = True

# -- how they look ----------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"labkit {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "github-dark"


def setup(app: object) -> None:
    """Put in what only the site has."""
    pages.setup(app)
    docstrings.setup(app)
