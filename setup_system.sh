#!/usr/bin/env bash
# System libraries that pip cannot bring: OpenGL without a screen, for the 3-D characters.
set -euo pipefail
has() { ldconfig -p | grep -q "$1"; }
if has libEGL.so.1 && has libEGL_mesa.so.0; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq libegl1 libgl1-mesa-dri >/dev/null
else
  echo "libEGL is missing: the data generator draws with it. On Debian or Ubuntu: sudo apt-get install libegl1 libgl1-mesa-dri" >&2
  exit 1
fi
