#!/bin/sh
# Fetch the book's JavaScript from the npm registry into assets/vendor, so that a built book needs no internet.
# Needs npm; run it (with --update) only to change a version. The files are committed; SHA256SUMS vouches for them.
# Licenses: KaTeX MIT (its fonts OFL), D3 ISC, reveal.js MIT.
set -eu
cd "$(dirname "$0")/assets/vendor"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
take() { # take PACKAGE@VERSION FILES [FOLDER]
  (cd "$work" && rm -rf package && tar -xzf "$(npm pack --silent "$1")")
  cp "$work/package/"$2 "${3:-.}"
}
take katex@0.16.47 dist/katex.min.js
take katex@0.16.47 dist/katex.min.css
take katex@0.16.47 dist/contrib/auto-render.min.js
mkdir -p fonts
take katex@0.16.47 'dist/fonts/*.woff2' fonts
take d3@7.9.0 dist/d3.min.js
take reveal.js@5.2.1 dist/reveal.js
take reveal.js@5.2.1 dist/reveal.css
take reveal.js@5.2.1 plugin/notes/notes.js
if [ "${1-}" = "--update" ]; then sha256sum -- *.js *.css fonts/* > SHA256SUMS; fi
sha256sum -c SHA256SUMS
