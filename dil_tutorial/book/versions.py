"""The first page of the published site: which versions of the book there are.  python -m
dil_tutorial.book.versions SITE
"""

import re
import sys
from pathlib import Path

from dil_tutorial.support.files import write_text


def versions(site: Path) -> list[str]:
    """The folders of a site that hold a version of the book, the newest first.

    >>> import tempfile
    >>> site = Path(tempfile.mkdtemp())
    >>> for name in ("v0.9.0", "v0.10.0", "latest", "colab"):
    ...     _ = (site / name).mkdir(), (site / name / "index.html").touch()
    >>> versions(site)
    ['v0.10.0', 'v0.9.0']
    """
    folders = [path.parent.name for path in site.glob("v*/index.html")]
    return sorted(
        folders, key=lambda name: [int(part) for part in re.findall(r"\d+", name)], reverse=True
    )


def first_page(names: list[str]) -> str:
    """A page that continues to the latest book at once, and lists the others for those who stay.

    >>> "v0.9.0/index.html" in first_page(["v0.9.0"])
    True
    """
    links = "".join(f'<li><a href="{name}/index.html">{name}</a></li>' for name in names)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>RLHF is imitation '
        "learning</title>"
        '<meta http-equiv="refresh" content="0; url=latest/index.html"></head>'
        '<body><p><a href="latest/index.html">The latest version</a>; earlier '
        f"ones:</p><ul>{links}</ul></body></html>\n"
    )


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) / "index.html", first_page(versions(Path(sys.argv[1]))))
