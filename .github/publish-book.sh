#!/bin/sh
# Put a built book onto the branch gh-pages: as latest/, under its version, and its notebooks for Colab.  publish-book.sh v1.2.3
set -eu
tag=$1
site=$(mktemp -d)
trap 'git worktree remove --force "$site"' EXIT
if git fetch -q origin gh-pages 2>/dev/null; then
  git worktree add -q --detach "$site" FETCH_HEAD
else # the first time: a branch without history
  git worktree add -q --detach "$site"
  git -C "$site" checkout -q --orphan "pages-$$"
  git -C "$site" rm -rfq .
fi
rm -rf "$site/latest" "$site/colab" "${site:?}/$tag"
cp -r book/_build/html "$site/latest"
cp -r book/_build/html "$site/$tag"
cp -r book/_build/html/colab "$site/colab"
touch "$site/.nojekyll"
.venv/bin/python -m dil_tutorial.book.versions "$site"
git -C "$site" add -A
git -C "$site" -c user.name=publish -c user.email=publish@localhost commit -qm "Book of $tag"
git -C "$site" push -q origin HEAD:gh-pages
