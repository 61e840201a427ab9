# shellcheck shell=bash
# Sourced by scripts/run, scripts/test and scripts/check: makes .venv on the first run and updates it on later ones.
# scripts/build-binary sets venv to another folder: a build contains only hedgehogd and its dependencies.
#
# .venv/.installed is written last, so a .venv without it is incomplete and is made again. Its three lines:
#   the checkout and the Python it was made for: a .venv holds absolute paths, so a moved checkout needs a new one;
#   the hash of pyproject.toml and the locks: when that changes, pip runs again;
#   the installed level: "run", or a dependency group of pyproject.toml beside it; "dev" includes "run".
#
# pip installs only the files that scripts/locks lists, each by its hash; scripts/lock writes the locks.
#
# stdout belongs to hedgehogd and pytest; this file prints to stderr.

set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=$root/.venv

say() { printf 'bootstrap: %s\n' "$*" >&2; }

fail() {
  say "$@"
  exit 69 # EX_UNAVAILABLE
}

# quietly PROBLEM COMMAND...: runs the command and prints its output only if it fails.
quietly() {
  local problem=$1 output
  shift
  output=$("$@" </dev/null 2>&1) || {
    printf '%s\n' "$output" >&2
    fail "$problem; the reason is above"
  }
}

# apt_packages PROBLEM PACKAGE...: installs Debian packages as root, else prints the command to do so.
apt_packages() {
  local problem=$1
  shift
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    fail "$problem; as root, run: apt-get install $*"
  fi
  say "$problem; installing $*"
  ( # One at a time: `apt-get update` does not wait for another one, and .ci/run has two lanes.
    flock -w 600 8 || fail "another script has used apt-get for ten minutes"
    quietly "apt-get could not read the package lists" apt-get update -qq
    quietly "apt-get could not install $*" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  ) 8>/var/lock/hedgehogd-apt
}

# need_program PROGRAM PACKAGE: ensures a program that pip cannot install.
need_program() {
  type -P "$1" >/dev/null || apt_packages "$1 is not installed" "$2" # -P ignores functions of the same name
}

# identity PYTHON: names an installation; equal for a Python and its .venv, and unchanged by an update from 3.11.2 to 3.11.3.
identity() {
  "$1" -c 'import sys; print(sys.base_prefix, "%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# True when .venv is complete, for this checkout, made by a Python that still runs and that equals PYTHON, if it is set.
venv_fits() {
  local made_for python
  [[ -f $venv/.installed ]] || return
  read -r made_for <"$venv/.installed"
  for python in "$venv/bin/python" ${PYTHON:+"$PYTHON"}; do
    [[ $made_for == "$root $(identity "$python")" ]] || return
  done
}

# The inputs of an environment, as one hash.
project_hash() { cat "$root/pyproject.toml" "$root"/scripts/locks/*.txt | sha256sum; }

# pip_install PYTHON ARGUMENT...: quiet, and never asks.
pip_install() {
  local python=$1
  shift
  quietly "pip could not install the locked packages" \
    "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
}

# locked_venv PLACE LOCK: the environment of a tool, made again after each change of its lock.
locked_venv() {
  local place=$1 lock=$root/scripts/locks/$2.txt stamp
  stamp="$(identity "${PYTHON:-python3}") $(sha256sum <"$lock")"
  [[ ! -f $place/.locked || $(<"$place/.locked") != "$stamp" ]] || return 0
  quietly "no environment for $2" "${PYTHON:-python3}" -m venv --clear "$place"
  pip_install "$place/bin/python" --require-hashes --no-deps -r "$lock"
  printf '%s\n' "$stamp" >"$place/.locked"
}

# installed LEVEL: true when nothing is left to install. Every start runs it: it must take only milliseconds.
installed() {
  local stamp
  venv_fits || return
  mapfile -t stamp <"$venv/.installed"
  [[ ${stamp[1]-} == "$(project_hash)" && ${stamp[2]-} =~ ^($1|dev)$ ]]
}

make_venv() {
  local python=${PYTHON:-python3} can_make_venvs='import ensurepip, venv'
  command -v "$python" >/dev/null ||
    fail "$python is not installed; hedgehogd needs Python 3.11 or newer: apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1), hedgehogd needs 3.11 or newer; name one with PYTHON=/path/to/python3.11"
  # Debian's python3 has no ensurepip and would leave an incomplete .venv, so this is checked first.
  "$python" -c "$can_make_venvs" 2>/dev/null ||
    apt_packages "$python cannot make virtual environments" python3-venv
  "$python" -c "$can_make_venvs" 2>/dev/null ||
    fail "$python still cannot make virtual environments; name one that can with PYTHON=/path/to/python3.11"
  say "making ${venv#"$root/"} with $("$python" -V); this happens once"
  trap 'rm -rf "$venv"' EXIT # until install_project is done
  quietly "$python could not make ${venv#"$root/"}" "$python" -m venv --clear "$venv"
}

install_project() {
  local level=$1 hash locks=()
  hash=$(project_hash) # before pip: the next run handles an edit made meanwhile
  if venv_fits; then
    say "updating ${venv#"$root/"}: the dependencies have changed or the development tools are wanted too"
  else
    make_venv
  fi
  locks=(-r "$root/scripts/locks/$level.txt")
  [[ $level != run ]] || locks+=(-r "$root/scripts/locks/backend.txt")
  rm -f "$venv/.installed" # an interrupted pip leaves an incomplete package that the next pip regards as complete
  pip_install "$venv/bin/python" --require-hashes --no-deps "${locks[@]}"
  # The backend is installed already: pip asks no registry, and runs nothing without a hash.
  pip_install "$venv/bin/python" --no-index --no-deps --no-build-isolation -e "$root"
  printf '%s\n' "$root $(identity "$venv/bin/python")" "$hash" "$level" >"$venv/.installed"
  trap - EXIT
}

# bootstrap run|dev|build: returns when $venv contains hedgehogd and, except for run, the tools of that group.
bootstrap() {
  installed "$1" && return
  # The lock is on the folder of the environment, so no lock file remains, and .venv and build/venv are made at once.
  # pip inherits it, so an orphaned pip still holds it.
  [[ -d ${venv%/*} ]] || mkdir -p "${venv%/*}"
  exec 9<"${venv%/*}"
  flock --nonblock 9 || { say "another run is installing; waiting for it" && flock 9; }
  installed "$1" || install_project "$1"
  exec 9<&-
}
