# shellcheck shell=bash
# Sourced by scripts/run, scripts/test and scripts/check: makes .venv on the first run, keeps it right on the next ones.
# scripts/build-binary sets venv to one of its own: what is built must hold nothing but hedgehogd and what it runs on.
#
# .venv/.installed is written last, so a .venv without it is unfinished and is made anew. Its three lines:
#   the checkout and the Python it was made for: a .venv holds absolute paths, so a moved checkout needs a new one;
#   the hash of pyproject.toml and the locks: when that changes, pip runs again;
#   what was installed: "run", or the dependency group of pyproject.toml that came with it; "dev" serves "run" too.
#
# pip installs what scripts/locks name, each file by its hash, and nothing else; scripts/lock writes the locks.
#
# Only hedgehogd and pytest speak on stdout; what is said here goes to stderr.

set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=$root/.venv

say() { printf 'bootstrap: %s\n' "$*" >&2; }

fail() {
  say "$@"
  exit 69 # EX_UNAVAILABLE
}

# quietly PROBLEM COMMAND...: pip and apt are talkative even when asked not to be; keep their words for when they fail.
quietly() {
  local problem=$1 words
  shift
  words=$("$@" </dev/null 2>&1) || {
    printf '%s\n' "$words" >&2
    fail "$problem; the reason is above"
  }
}

# apt_packages PROBLEM PACKAGE...: installs Debian packages when we may, else says what to do.
apt_packages() {
  local problem=$1
  shift
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    fail "$problem; install what is missing, as root: apt-get install $*"
  fi
  say "$problem; installing $*"
  quietly "apt-get could not read the package lists" apt-get update -qq
  quietly "apt-get could not install $*" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

# need_program PROGRAM PACKAGE: for programs that pip cannot bring.
need_program() {
  type -P "$1" >/dev/null || apt_packages "there is no $1 here" "$2" # a program: functions may have its name
}

# Which Python a command is: the same for a Python and for the .venv made by it, and unmoved by 3.11.2 becoming 3.11.3.
identity() {
  "$1" -c 'import sys; print(sys.base_prefix, "%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# True when .venv was finished, for this checkout, by a Python that still runs and is the one asked for, if any was.
venv_fits() {
  local made_for python
  [[ -f $venv/.installed ]] || return
  read -r made_for <"$venv/.installed"
  for python in "$venv/bin/python" ${PYTHON:+"$PYTHON"}; do
    [[ $made_for == "$root $(identity "$python")" ]] || return
  done
}

# What an environment depends on, as one hash.
project_hash() { cat "$root/pyproject.toml" "$root"/scripts/locks/*.txt | sha256sum; }

# pip_install PYTHON ARGUMENT...: quiet, and never asks.
pip_install() {
  local python=$1
  shift
  quietly "pip could not install what is locked" \
    "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
}

# locked_venv PLACE LOCK: an environment of a tool, made anew whenever its lock has changed.
locked_venv() {
  local place=$1 lock=$root/scripts/locks/$2.txt stamp
  stamp="$(identity "${PYTHON:-python3}") $(sha256sum <"$lock")"
  [[ ! -f $place/.locked || $(<"$place/.locked") != "$stamp" ]] || return 0
  quietly "no environment for $2" "${PYTHON:-python3}" -m venv --clear "$place"
  pip_install "$place/bin/python" --require-hashes --no-deps -r "$lock"
  printf '%s\n' "$stamp" >"$place/.locked"
}

# installed LEVEL: True when nothing is left to do. Every start pays for this: keep it to milliseconds.
installed() {
  local stamp
  venv_fits || return
  mapfile -t stamp <"$venv/.installed"
  [[ ${stamp[1]-} == "$(project_hash)" && ${stamp[2]-} =~ ^($1|dev)$ ]]
}

make_venv() {
  local python=${PYTHON:-python3} can_make_venvs='import ensurepip, venv'
  command -v "$python" >/dev/null ||
    fail "there is no $python here; hedgehogd needs Python 3.11 or newer: apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1), hedgehogd needs 3.11 or newer; name one with PYTHON=/path/to/python3.11"
  # Debian's python3 comes without ensurepip and then leaves half a .venv behind: ask before, not after.
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
  hash=$(project_hash) # before pip: an edit made meanwhile is for the next run
  if venv_fits; then
    say "updating ${venv#"$root/"}: the dependencies have changed or the development tools are wanted too"
  else
    make_venv
  fi
  locks=(-r "$root/scripts/locks/$level.txt")
  [[ $level != run ]] || locks+=(-r "$root/scripts/locks/backend.txt")
  rm -f "$venv/.installed" # an interrupted pip leaves half a package that the next pip takes for a whole one
  pip_install "$venv/bin/python" --require-hashes --no-deps "${locks[@]}"
  # The backend is installed: nothing is asked of a registry, and nothing without a hash is run.
  pip_install "$venv/bin/python" --no-index --no-deps --no-build-isolation -e "$root"
  printf '%s\n' "$root $(identity "$venv/bin/python")" "$hash" "$level" >"$venv/.installed"
  trap - EXIT
}

# bootstrap run|dev|build: returns when $venv holds hedgehogd and, for all but run, the tools of that group.
bootstrap() {
  installed "$1" && return
  # The lock is the checkout itself: no file is left behind. pip inherits it, so an orphaned pip still holds it.
  exec 9<"$root"
  flock --nonblock 9 || { say "another run is installing; waiting for it" && flock 9; }
  installed "$1" || install_project "$1"
  exec 9<&-
}
