"""Run a program of ESPnet with our encoders and tasks, as ``asr.sh`` asks for it.

    ./asr.sh --python "python3 -m espnet_prune" ...

makes an ESPnet recipe call ``python3 -m espnet_prune -m espnet2.bin.asr_train ...``:
that program runs, and it and all processes that it spawns know the prunable and the
compact encoder.
"""

import importlib
import logging
import sys
from types import ModuleType

# Importing anything of the package registers. Python imports this module, the main one,
# in each process that the program spawns, too.
from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.lean import lean

# ESPnet programs that ours do better: they check what they load, prune, and know what
# is compact.
OURS = {
    "espnet2.bin.asr_train": "espnet_prune.cli.drop_in_train",
    "espnet2.bin.asr_inference": "espnet_prune.cli.asr_inference",
    "espnet2.bin.asr_inference_streaming": "espnet_prune.cli.asr_inference_streaming",
    "espnet2.bin.pack": "espnet_prune.cli.drop_in_pack",
    "espnet2.bin.s2t_inference": "espnet_prune.cli.s2t_inference",
}


def program(arguments: list[str]) -> ModuleType:
    """Import the module to run for ``-m MODULE ...``.

    Raises:
        InputError: none is named, or it cannot be run.
    """
    if arguments and arguments[0].endswith(".py"):
        raise InputError(
            arguments[0],
            "is a script, and only modules are run here",
            "leave out --use_lightning true, for which asr.sh runs scripts",
        )
    if arguments[:1] != ["-m"] or len(arguments) < 2:
        raise InputError(
            " ".join(["python3 -m espnet_prune", *arguments[:1]]),
            "runs modules only",
            "give -m MODULE and its arguments, as -m espnet2.bin.asr_train --help",
        )
    name = arguments[1]
    try:
        with lean():
            module = importlib.import_module(OURS.get(name, name))
    except ModuleNotFoundError as e:
        if e.name is None or not f"{name}.".startswith(f"{e.name}."):
            raise  # it is there, and lacks something itself
        raise InputError(name, "there is no such module", "check its name") from e
    if not hasattr(module, "main"):
        raise InputError(name, "has no main()", "start it without espnet_prune")
    return module


def main() -> int | None:
    module = program(sys.argv[1:])
    sys.argv = sys.argv[2:]
    if not module.__name__.startswith("espnet_prune."):
        logging.root.handlers.clear()  # ESPnet's programs set up their own
    return module.main()


if __name__ == "__main__":
    run_main(main)
