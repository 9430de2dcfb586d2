#!/bin/sh
# Fetch the book's JavaScript from the npm registry into assets/vendor, so that a built book needs no internet.
# Needs npm; run it (with --update) only to change a version. The files are committed; SHA256SUMS vouches for them.
# Licenses: MathJax Apache-2.0, html-manager (Jupyter widgets) BSD-3-Clause, RequireJS MIT, D3 ISC, reveal.js MIT.
set -eu
cd "$(dirname "$0")/assets/vendor"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
take() { # take PACKAGE@VERSION FILE
  (cd "$work" && rm -rf package && tar -xzf "$(npm pack --silent "$1")")
  cp "$work/package/$2" .
}
take mathjax@3.2.2 es5/tex-svg.js
take @jupyter-widgets/html-manager@1.0.15 dist/embed-amd.js
take requirejs@2.3.8 require.js
take d3@7.9.0 dist/d3.min.js
take reveal.js@5.2.1 dist/reveal.js
take reveal.js@5.2.1 dist/reveal.css
take reveal.js@5.2.1 plugin/notes/notes.js
if [ "${1-}" = "--update" ]; then sha256sum -- *.js *.css > SHA256SUMS; fi
sha256sum -c SHA256SUMS
