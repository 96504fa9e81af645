# shellcheck shell=bash
# Source me: leaves a `python` in PATH that satisfies the pins. An active environment
# that does is taken as it is; otherwise .venv is made (once), with plain pip.
#   . ./path.sh [REQUIREMENTS_FILE [PYTHON VENV]]
# (another interpreter than python3, and the place of its environment instead of .venv).
# The recipes of egs2/ reach this file, and run.sh, by links.
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
requirements=${root}/${1:-requirements.txt}
python=${2:-python3}
venv=${root}/${3:-.venv}
check="${root}/local/check_pins.py"

if command -v "${python}" >/dev/null && "${python}" "${check}" "${requirements}" 2>/dev/null; then
    PATH=$(dirname "$(command -v "${python}")"):${PATH}
else
    if ! "${venv}/bin/python" "${check}" "${requirements}" 2>/dev/null; then
        if ! "${python}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
            echo "error: ${python} is $("${python}" --version 2>&1), 3.11 or 3.12 is needed" >&2
            exit 2
        fi
        echo "Setting up ${venv} (once; several minutes; log: ${venv}.log)"
        if ! {
            "${python}" -m venv "${venv}" &&
            # The newest pip rejects the metadata of a dependency of ESPnet 202511.
            "${venv}/bin/python" -m pip install 'pip<25' &&
            "${venv}/bin/python" -m pip install -r "${requirements}"
        } >"${venv}.log" 2>&1; then
            tail -n 5 "${venv}.log" >&2
            echo "error: the set-up failed, see ${venv}.log" >&2
            exit 2
        fi
    fi
    PATH=${venv}/bin:${PATH}
fi
export PATH
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
export PYTHONIOENCODING=UTF-8
export LC_ALL=C.UTF-8
