"""``python -m espnet_prune -m MODULE ...``: see :mod:`espnet_prune.cli.run`."""

import runpy

# As the main module under its own name: a package's __main__ is left out in the
# processes that Python spawns, and with it would be the registration.
runpy.run_module("espnet_prune.cli.run", run_name="__main__", alter_sys=True)
