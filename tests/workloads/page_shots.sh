#!/usr/bin/env bash
# page_shots.sh PAGE.html OUT: pictures of a page of `floe bench`, at 1280, 800 and 390 pixels, light and dark, into OUT, and a check in the
# browser: no two labels of a plot overlap or leave it, no label covers a marker, the page is no wider than the window.
# Needs chromium, node, and playwright-core, found in NODE_PATH or installed into OUT by npm.
set -euo pipefail
page=$(realpath "${1:?usage: page_shots.sh PAGE.html OUT}")
out=${2:?usage: page_shots.sh PAGE.html OUT}
mkdir -p "$out"
out=$(realpath "$out")
if ! node -e 'require("playwright-core")' 2>/dev/null; then
    export NODE_PATH="$out/npm/node_modules"
    [ -d "$NODE_PATH/playwright-core" ] || npm install --silent --prefix "$out/npm" playwright-core
fi
exec timeout 300 node "$(dirname "$(realpath "$0")")/page_shots.js" "$page" "$out" "${CHROMIUM:-/usr/bin/chromium}"
