#!/usr/bin/env bash
# Everything the package needs, on a bare Debian or Ubuntu machine: system libraries, .venv, wheels.
# Does nothing when nothing has changed since the last time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
stamp=$venv/.setup

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

python=${PYTHON:-python3}
if [[ $python == python3 ]] && command -v python3 >/dev/null && ! suits python3; then
  # The system's Python is too new or too old for the wheels: another may be there.
  for other in python3.13 python3.12 python3.11 python3.10; do
    if suits "$other"; then
      python=$other
      break
    fi
  done
fi

# Package and the file that shows that it is there (Open3D and OpenCV load these).
libraries=(
  "libegl1 libEGL.so.1" "libgl1 libGL.so.1" "libgomp1 libgomp.so.1"
  "libusb-1.0-0 libusb-1.0.so.0" "libx11-6 libX11.so.6"
)

missing_packages() {
  local known entry
  known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
  for entry in "${libraries[@]}"; do
    grep -qF "${entry#* }" <<<"$known" || echo "${entry% *}"
  done
  if ! command -v "$python" >/dev/null; then
    [[ $python != python3 ]] || echo "python3 python3-venv"
  elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")'
  fi
}

install_packages() {
  local -a as_root=()
  command -v apt-get >/dev/null || fail "these are missing, and there is no apt-get: $*"
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || fail "these are missing; as root: apt-get install $*"
    as_root=(sudo)
  fi
  say "installing system packages: $*"
  "${as_root[@]}" apt-get update -qq || say "apt-get update failed; going on with the old lists"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null ||
    fail "could not install them; as root: apt-get install $*"
}

# shellcheck disable=SC2207  # package names have no blanks
missing=($(missing_packages))
if ((${#missing[@]})); then
  install_packages "${missing[@]}"
fi

command -v "$python" >/dev/null || fail "there is no $python; name one: make PYTHON=/path/to/python3"
suits "$python" ||
  fail "$python is $("$python" -V 2>&1); 3.10 to 3.13 is needed: make PYTHON=/path/to/python3"

wanted=$(cat setup.py setup.cfg requirements.txt pyproject.toml | sha256sum)$(pwd)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  say "making $venv with $("$python" -V)"
  "$python" -m venv --clear "$venv"
fi
say "installing wheels into $venv (several GB and some minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[ros,test]' ||
  fail "pip could not install the wheels; see above"
echo "$wanted" >"$stamp"
say "set up"
