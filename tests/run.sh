#!/usr/bin/env bash
# The tests: lint, then pytest. Makes the environment if it is missing. All of them end
# with those of the equalities under the other Python that is supported, and its ESPnet.
#   tests/run.sh            everything
#   tests/run.sh --quick    without the tests that train for minutes
#   tests/run.sh PATH ...   some tests, with pytest's options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh requirements-dev.txt

if [ $# -eq 0 ] || [ "$1" = --quick ]; then
    echo "== lint"
    python3 -m ruff check .
    python3 -m ruff format --check .
    git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck -x
    # Not --quiet: warnings would not be counted.
    log=$(python3 -m mkdocs build --strict 2>&1) || { echo "${log}" && exit 1; }
fi
# Two at a time, a core each. Neighbours share what they are made of: they stay together.
quick() { OMP_NUM_THREADS=1 python3 -m pytest -m "not slow" -n 2 --dist worksteal "$@"; }
slow() { OMP_NUM_THREADS=1 python3 -m pytest -m slow -n 2 --dist loadscope; }
# Compact models compute what gated ones did, and cost what was declared, once more. The
# fast ones of these directories take some two minutes.
equalities_elsewhere() {
    local other python
    other=$(python3 -c 'import sys; print("3.11" if sys.version_info >= (3, 12) else "3.12")')
    for python in "python${other}" "$(pyenv prefix "${other}" 2>/dev/null)/bin/python${other}"; do
        # pyenv names Pythons that it would not run; some lack what makes environments.
        if "${python}" -c 'import ensurepip' 2>/dev/null; then
            echo "== equalities under Python ${other}"
            . ./path.sh requirements-dev.txt "${python}" ".venv-${other}"
            quick tests/families tests/export/test_kinds.py
            return
        fi
    done
    echo "== no Python ${other} is here: its equalities are skipped"
}

echo "== tests"
if [ "${1:-}" = --quick ]; then
    quick
    exit
fi
# The fast tests first: they fail early.
if [ $# -eq 0 ]; then
    quick
    slow
    (equalities_elsewhere)
    exit
fi
exec python3 -m pytest "$@"
