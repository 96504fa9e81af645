"""Pack as ``asr.sh`` and ``s2t.sh`` call ``espnet2.bin.pack`` (stage 14 of ``asr.sh``).

ESPnet packs files under the paths that its recipe has for them. A compact model's
config names its own copies, so that :mod:`espnet_prune.export.pack` packs it, as it
does a dense model that hears by our upstream. Every other one is packed as in ESPnet.
"""

from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

from espnet2.bin import pack as espnet

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.export.pack import LANGUAGE_MODEL, pack
from espnet_prune.families.espnet.tasks import ASR, TASKS
from espnet_prune.report.card import plain_card
from espnet_prune.serving.load import refuse_gates
from espnet_prune.training.registration import names_ours


def main() -> None:
    args = espnet.get_parser().parse_args()
    told = vars(args)
    (task,) = [task for task in TASKS if task.config_option in told] or [ASR]
    config = Path(told.get(task.config_option) or "")
    if not config.is_file() or not is_ours(config):
        return espnet.main()
    weights = told[task.weights_option]
    if weights is None:
        raise InputError(f"--{task.weights_option}", "is missing", f"name {config}'s")
    given = {option: getattr(args, option) for option in LANGUAGE_MODEL}
    out = Path(args.outpath)
    pack(
        config,
        Path(weights),
        plain_card(config, out.name),
        out,
        {option: Path(path) for option, path in given.items() if path is not None},
        list(map(Path, args.option)),
    )


def is_ours(config: Path) -> bool:
    """Tell whether a config is that of a model that this package packs.

    Raises:
        InputError: it is that of a pruning run, which is nothing to decode with.
    """
    values = read_yaml(config)
    refuse_gates(values, config)
    # A small model of ESPnet's own encoder is in a compact directory, too.
    return names_ours(values) or (config.parent / "pruning.json").is_file()


if __name__ == "__main__":
    run_main(main)
