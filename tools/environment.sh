#!/bin/sh
# Makes the virtual environment that every make target runs in.
#
#     sh tools/environment.sh DIRECTORY STAMP [EXTRAS | REQUIREMENTS.txt]
#
# Holds the project with its extras, or what a file of requirements lists and no project.
#
# Takes the first Python from 3.11 on (or $PYTHON), with whatever it has for making an
# environment: ensurepip, or a pip outside of it. A bare Debian has neither; root gets
# python3-venv installed, anybody else one line that says what to ask for. STAMP is
# written last and names what was installed, so that an unchanged project installs
# nothing and needs no network.
set -eu

directory=$1
stamp=$2
extras=${3:-all,dev}

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "citemesh: $*"
    exit 1
}
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has_ensurepip() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# python3 first: it is the one the machine's owner chose. A name may exist and not run
# (pyenv's shims), so each is tried.
find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python from 3.11 on was found. On Debian 12 or Ubuntu 24.04:" \
        "apt install python3 python3-venv. Another one: make PYTHON=/path/to/python3.12"
}

install_venv_package() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "citemesh: $1 cannot make virtual environments; installing python3-venv with apt-get"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null &&
            has_ensurepip "$1" && return
    fi
    fail "$1 cannot make virtual environments: apt install python3-venv (as root), then again"
}

# Optional: without it scans and images fail with a reason, and everything else works.
install_tesseract() {
    command -v tesseract >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "citemesh: installing tesseract-ocr with apt-get, for scans and images"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends tesseract-ocr \
            tesseract-ocr-deu tesseract-ocr-fra tesseract-ocr-chi-sim >/dev/null && return
    fi
    say "citemesh: scans and images will not be read: apt install tesseract-ocr" \
        "tesseract-ocr-deu tesseract-ocr-fra tesseract-ocr-chi-sim (brew install tesseract" \
        "tesseract-lang)"
}

create() {
    python=$(find_python)
    rm -rf "$directory"
    if has_ensurepip "$python"; then
        "$python" -m venv "$directory"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$directory"
        "$python" -m pip --python "$directory/bin/python" install -q pip
    else
        install_venv_package "$python"
        "$python" -m venv "$directory"
    fi
}

# An environment that was moved, whose Python is gone or that was left half made is made anew.
if ! new_enough "$directory/bin/python" || ! "$directory/bin/python" -m pip --version >/dev/null 2>&1
then
    create
fi

if [ "${extras%.txt}" != "$extras" ]; then
    say "citemesh: installing $extras into $directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --requirement "$extras" || fail "the packages could not be installed; pip says why above."
    rm -f "$directory"/.installed-*
    : >"$stamp"
    exit
fi

install_tesseract

say "citemesh: installing [$extras] into $directory (minutes the first time)"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --editable ".[$extras]" || fail "the packages could not be installed; pip says why above." \
    "Without a network, run make once where there is one."
rm -f "$directory"/.installed-*
: >"$stamp"
