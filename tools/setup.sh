# Sourced by tools/quickstart, tools/test and .ci/run: brings what is missing, and prints every step it runs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1

run() {
  printf '+ %s\n' "$*" >&2
  "$@"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

missing=()
# want PACKAGE COMMAND...: notes the Debian package as missing where the command fails.
want() {
  "${@:2}" >/dev/null 2>&1 || missing+=("$1")
}

want_build_tools() {
  want g++ command -v "${CXX:-c++}"
  want python3 command -v "$python"
  want python3-venv "$python" -c 'import ensurepip, venv'
  want python3-dev "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
}

install_missing() {
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID)); then as_root=(sudo); fi
  if ! command -v apt-get >/dev/null || { ((EUID)) && ! command -v sudo >/dev/null; }; then
    fail "these are missing, by their Debian names: ${missing[*]}; install them and try again"
  fi
  run "${as_root[@]}" apt-get update -q
  run "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

make_venv() {
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or later is needed; $python is $("$python" -V)"
  [ -x "$root/.venv/bin/pip" ] || run "$python" -m venv "$root/.venv"
}
