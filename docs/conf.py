"""Configuration of Sphinx, which builds the site from this folder: `make docs`."""

import logging
import sys
from pathlib import Path

from lucidcube import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "lucidcube"
author = "The lucidcube developers"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "repository_pages",
]
# The texts about methods are parts of other pages.
exclude_patterns = ["_build", "methods"]

# Links on these pages are relative paths, which also work where the repository is browsed.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "toc.empty_glob"]

# The examples run when they are built; results are kept in _build until an example changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "executed")
nb_execution_timeout = 600  # kernels may have to be compiled
nb_execution_raise_on_error = True
nb_merge_streams = True

autosummary_generate = False
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "scipy": ("https://docs.scipy.org/doc/scipy", None),
    "astropy": ("https://docs.astropy.org/en/stable", None),
    "xarray": ("https://docs.xarray.dev/en/stable", None),
    "dask": ("https://docs.dask.org/en/stable", None),
}
intersphinx_timeout = 5
# Without a network the site has no links to other projects, which is no reason to fail.
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(
    lambda record: "failed to reach any of the inventories" not in str(record.msg)
)

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "lucidcube"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "get-started": []}
copybutton_exclude = ".linenos, .gp, .go"
