"""A built site keeps the styles and icons that its pages have, and no others."""

from pathlib import Path

import pytest

pytest.importorskip("tinycss2", reason="the site needs the book extra")
pytest.importorskip("pydata_sphinx_theme", reason="the site needs the book extra")

import pydata_sphinx_theme
from fontTools.ttLib import TTFont

from dil_tutorial.book.lighter import lighten

STYLES = """.seen { color: red } .unseen { color: red } .seen .unseen, .opened { top: 0 }
@media print { .unseen { top: 0 } .seen:not(.unseen) { top: 0 } }
.fa-star { --fa: "\\f005" } .fa-heart { --fa: "\\f004" } p { top: 0 }"""


def test_what_no_page_has_is_left_out(tmp_path):
    static = tmp_path / "_static"
    fonts = static / "vendor" / "fontawesome" / "webfonts"
    fonts.mkdir(parents=True)
    (tmp_path / "index.html").write_text('<p class="seen fa-star">unseen</p>')
    (static / "own.js").write_text('box.classList.add("opened")')
    (static / "own.css").write_text(STYLES)
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    solid = fonts / "fa-solid-900.woff2"
    solid.write_bytes((theme / "vendor/fontawesome/webfonts/fa-solid-900.woff2").read_bytes())
    for _ in range(2):  # a site that is light stays as it is
        lighten(tmp_path)
        css = (static / "own.css").read_text()
        assert css.count(".seen") == 2
        assert ".opened" in css
        assert "p {" in css
        assert css.count("unseen") == 1  # within :not()
        assert "fa-star" in css
        assert "fa-heart" not in css
        known = TTFont(solid).getBestCmap()
        assert 0xF005 in known
        assert 0xF004 not in known
