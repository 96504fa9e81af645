"""Let a recognizer with an upstream of s3prl's own hear by that of this package.

The recognizer computes the same; ``prune_frontend`` can prune its self-supervised
encoder, and nothing is downloaded to build it.
"""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, OptionError, run_main
from espnet_prune.base.files import atomic_dir, write_yaml
from espnet_prune.families.espnet.prunable import SELF_SUPERVISED


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="its config.yaml")
    parser.add_argument("--model", type=Path, required=True, help="its weights")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory: config.yaml, model.pth"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    translate(args.config, args.model, args.out)


def translate(config: Path, weights: Path, out: Path) -> None:
    """Write ``config.yaml`` and ``model.pth`` of the translated recognizer.

    Args:
        config, weights: of the recognizer.
        out: the directory.

    Raises:
        InputError: it has no upstream that can be translated, or the directory exists.
    """
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    import torch

    from espnet_prune.families.espnet.checkpoint import (
        check_resources,
        load_model,
        read_state,
    )
    from espnet_prune.families.espnet.frontend import translated
    from espnet_prune.families.ssl.fairseq import UPSTREAMS

    if not config.is_file():
        raise InputError(config, "does not exist", "give a model's config.yaml")
    if out.exists():
        raise InputError(out, "exists already", "remove it, or give another --out")
    values = check_resources(config)
    name, conf = values.get("frontend"), values.get("frontend_conf") or {}
    options = conf.get("frontend_conf") or {}
    upstream = options.get("upstream")
    if name != SELF_SUPERVISED or upstream not in UPSTREAMS:
        what = f"frontend {name!r}, upstream {upstream!r} cannot be translated"
        mend = f"{SELF_SUPERVISED} with one of these can be: {', '.join(UPSTREAMS)}"
        raise InputError(config, what, mend)
    if options.get("extra_conf"):
        what = "extra_conf of its upstream cannot be translated"
        raise InputError(config, what, "leave out prune_frontend")
    try:
        told, state = translated(values, read_state(weights))
    except OptionError as e:
        mend = f"give the weights that {config} was trained to, with its frontend"
        raise InputError(weights, str(e), mend) from e
    with atomic_dir(out) as folder:
        files = folder / "config.yaml", folder / "model.pth"
        write_yaml(files[0], told)
        torch.save(state, files[1])
        load_model(*files)
    given = f"--teacher_config {out}/config.yaml --teacher_model {out}/model.pth"
    logging.info(f"{config}: {upstream} is translated; give {given}")


if __name__ == "__main__":
    run_main(main)
