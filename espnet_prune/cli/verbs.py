"""Run each program of this folder by its name: ``espnet-prune VERB ...``.

``espnet-prune measure ...`` is ``python -m espnet_prune.cli.measure ...``.
"""

import importlib
import pkgutil
import sys

import espnet_prune.cli
from espnet_prune.base.errors import InputError, run_main

FUNCTIONS = {"in_process", "prune", "prune_speech", "verbs"}  # no programs


def verbs() -> list[str]:
    """List the names of the programs."""
    found = {module.name for module in pkgutil.iter_modules(espnet_prune.cli.__path__)}
    return sorted(found - FUNCTIONS)


def main() -> int | None:
    """Run a program, or list them."""
    verb = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else "--help"
    if verb in ("__help", "--help", "_h"):
        print("usage: espnet-prune VERB [OPTION ...]\n\nverbs:")
        print(*(f"  {name}" for name in verbs()), sep="\n")
        return 0
    if verb not in verbs():
        raise InputError(f"espnet-prune {sys.argv[1]}", "there is none", "see --help")
    sys.argv = [f"espnet-prune {verb}", *sys.argv[2:]]
    return importlib.import_module(f"espnet_prune.cli.{verb}").main()


def run() -> None:
    """Run the console script."""
    run_main(main)


if __name__ == "__main__":
    run()
