# shellcheck shell=bash
# Source me: leaves a `python` in PATH that satisfies the pins. An active environment
# that does is taken as it is; otherwise .venv is made (once), with plain pip.
#   . ./path.sh [REQUIREMENTS_FILE]
# The recipes of egs2/ reach this file, and run.sh, by links.
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
requirements=${root}/${1:-requirements.txt}
check="${root}/local/check_pins.py"

if command -v python3 >/dev/null && python3 "${check}" "${requirements}" 2>/dev/null; then
    PATH=$(dirname "$(command -v python3)"):${PATH}
else
    venv=${root}/.venv
    if ! "${venv}/bin/python" "${check}" "${requirements}" 2>/dev/null; then
        if ! python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
            echo "error: python3 is $(python3 --version 2>&1), 3.11 or 3.12 is needed" >&2
            exit 2
        fi
        echo "Setting up ${venv} (once; several minutes; log: ${root}/.venv.log)"
        if ! {
            python3 -m venv "${venv}" &&
            # The newest pip rejects the metadata of a dependency of ESPnet.
            "${venv}/bin/python" -m pip install 'pip<25' &&
            "${venv}/bin/python" -m pip install -r "${requirements}"
        } >"${root}/.venv.log" 2>&1; then
            tail -n 5 "${root}/.venv.log" >&2
            echo "error: the set-up failed, see ${root}/.venv.log" >&2
            exit 2
        fi
    fi
    PATH=${venv}/bin:${PATH}
fi
export PATH
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
python3 "${check}" --shadowed || exit 2
export PYTHONIOENCODING=UTF-8
export LC_ALL=C.UTF-8
