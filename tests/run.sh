#!/usr/bin/env bash
# The tests: lint, then pytest. Makes the environment if it is missing.
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
echo "== tests"
quick() { # most of them are about small things: a core each, two at a time
    OMP_NUM_THREADS=1 python3 -m pytest -m "not slow" -n 2
}
if [ "${1:-}" = --quick ]; then
    quick
    exit
fi
# The fast tests first: they fail early.
if [ $# -eq 0 ]; then
    quick
    exec python3 -m pytest -m slow
fi
exec python3 -m pytest "$@"
