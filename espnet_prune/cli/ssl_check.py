"""Refuse what stages for self-supervised encoders would, before any audio is cut.

The model is fetched and read, and so are the options of both trainings and the probes.
What is printed is the directory of the model.
"""

import argparse
from pathlib import Path

from espnet_prune.base.errors import run_main
from espnet_prune.cli.check_early import COMPACT, training_options
from espnet_prune.families.ssl.directory import locate


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", required=True, help="directory, or name")
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--method", type=str.split, required=True)
    parser.add_argument("--targets", type=str.split, required=True)
    parser.add_argument("--target_kind", required=True)
    for phase in ("prune", "distil"):
        parser.add_argument(f"--{phase}_config", type=Path, required=True)
        parser.add_argument(f"--{phase}_args", type=str.split, default=[])
    parser.add_argument("--text", help="transcripts, if there are any")
    parser.add_argument("--probes", type=str.split, default=[])
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    dense = locate(args.dense)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.cli.ssl_probe import check_probes
    from espnet_prune.families.ssl.audio import normalizes
    from espnet_prune.families.ssl.model import read_head
    from espnet_prune.training.origin import refuse_missing_gpus
    from espnet_prune.training.ssl_plan import check_options
    from espnet_prune.training.ssl_task import Spelling

    refuse_missing_gpus(args.ngpu)
    normalizes(dense)
    check_probes(args.probes)
    if args.text:
        read_head(dense)
        Spelling(dense).check(Path(args.text))
    for method in args.method:
        given = args.prune_config, args.prune_args, method, args.target_kind
        for target in args.targets:
            stage = training_options("--prune_args", *given, float(target))
            check_options(stage, dense)
        given = args.distil_config, args.distil_args, method
        stage = training_options("--distil_args", *given, compact=COMPACT)
        check_options(stage, dense)
    print(dense)


if __name__ == "__main__":
    run_main(main)
