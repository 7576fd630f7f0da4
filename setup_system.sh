#!/usr/bin/env bash
# System packages that pip cannot bring: OpenGL without a screen, for 3-D characters and the arm; the own venv module of
# Python, which Debian packages apart; and beside an NVIDIA driver a C compiler and Python.h, by which Triton launches its kernels.
# Usage: ./setup_system.sh PYTHON
set -euo pipefail
python=${1:-python3}

libraries=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)
packages=()
if [[ $libraries != *libEGL.so.1* || $libraries != *libEGL_mesa.so.0* ]]; then packages+=(libegl1 libgl1-mesa-dri); fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then packages+=(python3-venv); fi
if command -v nvidia-smi >/dev/null; then
  header='import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
  if ! command -v "${CC:-gcc}" clang >/dev/null || ! "$python" -c "$header" 2>/dev/null; then
    packages+=(gcc libc6-dev python3-dev)
  fi
fi
if [ ${#packages[@]} = 0 ]; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing system packages: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
else
  echo "system packages are missing: ${packages[*]}. On Debian or Ubuntu: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
