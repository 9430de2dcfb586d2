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
# of D3 what the playground uses, a quarter of the whole
cat > "$work/parts.js" <<'PARTS'
export { select, selectAll } from "d3-selection";
export { scaleBand, scaleLinear, scalePoint } from "d3-scale";
export { axisBottom, axisLeft } from "d3-axis";
export { drag } from "d3-drag";
export { line } from "d3-shape";
export { lab, rgb } from "d3-color";
PARTS
(cd "$work" && npm install --silent --prefix . d3@7.9.0 esbuild@0.25.0)
(cd "$work" && npx esbuild parts.js --bundle --minify --format=iife --global-name=d3 --outfile=d3.min.js --log-level=error)
cp "$work/d3.min.js" .
take reveal.js@5.2.1 dist/reveal.js
take reveal.js@5.2.1 dist/reveal.css
take reveal.js@5.2.1 plugin/notes/notes.js
if [ "${1-}" = "--update" ]; then sha256sum -- *.js *.css fonts/* > SHA256SUMS; fi
sha256sum -c SHA256SUMS
