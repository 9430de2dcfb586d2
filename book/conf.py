"""Sphinx's settings for the book.  `dil dev book` writes generated/, then calls sphinx-build -W."""

import os

from dil_tutorial import __version__

owner, _, name = os.environ.get("DIL_REPOSITORY", "").partition("/")

project = "RLHF as imitation learning"
author = "The DIL tutorial's authors"
extensions = [
    "myst_nb",
    "sphinx_external_toc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinxext.opengraph",
    "dil_tutorial.book.crossref",
]
exclude_patterns = ["_build", "generated/claims_*.md", "assets"]
external_toc_exclude_missing = True
numfig = True
language = "en"

# Pages show the outputs that notebooks hold; `dil dev book` refuses one that failed or was not run.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables and formulas that a notebook displays
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_dmath_double_inline = True
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "sphinx_book_theme"
html_title = "The DIL tutorial"
html_logo = html_favicon = "assets/logo.svg"
html_static_path = ["assets"]
html_extra_path = ["generated/extra"]  # slides, pictures of panels, notebooks as files, editions
html_css_files = ["vendor/katex.min.css", "book.css"]  # all from this site
scripts = ("panels", "formula", "answers", "predictions", "progress", "search", "zoom")
html_js_files = [f"{name}.js" for name in scripts]
html_context = {"default_mode": "auto"}  # light or dark as the system has it
templates_path = ["templates"]
html_show_copyright = False
html_copy_source = False
html_sourcelink_suffix = ""
mathjax_path = "formulas.js"  # loads KaTeX, from this site, where a page has formulas
# A description of each page, for search engines and for links that people share.
html_baseurl = f"https://{owner}.github.io/{name}/latest/" if name else ""
ogp_site_name = html_title
ogp_enable_meta_description = True
ogp_image = "_static/social.png"
ogp_social_cards = {"enable": False}
html_theme_options = {
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
}

epub_cover = ("_static/cover.png", "")
epub_show_urls = "no"
epub_tocscope = "includehidden"
epub_tocdepth = 2


def setup(app):
    """Put the address of the repository, where it is known, into the page on installing."""
    address = f"https://github.com/{owner}/{name}" if name else "REPOSITORY"

    def with_address(app, page, source):
        if page == "install":
            source[0] = source[0].replace("REPOSITORY", address).replace("VERSION", __version__)

    app.connect("source-read", with_address)


def linkcode_resolve(domain, info):
    """Where the source of a module is shown: in the public repository, if there is one."""
    if not name or not info["module"]:
        return None
    place = info["module"].replace(".", "/")
    return f"https://github.com/{owner}/{name}/blob/main/{place}.py"
