"""Stage 11, instead of a training: fetch a published ESPnet model to prune.

``--tag`` is what ``espnet_model_zoo`` knows: a name of its table, a Hugging Face
repository (``owner/name``, ``owner/name@revision``), a URL, or a local zip.
"""

import argparse
import logging
import warnings
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path, fingerprint
from espnet_prune.families.espnet.tasks import TASKS

NAMES = "config.yaml", "model.pth"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tag", required=True)
    parser.add_argument("--out", type=Path, required=True, help="experiment directory")
    return parser


def fetch(tag: str, folder: Path) -> tuple[str, str]:
    """Download and unpack a model under a folder; what is there is not fetched again.

    Returns:
        its config and its weights.

    Raises:
        InputError: it cannot be had, or is of a task that cannot be pruned.
    """
    from espnet_model_zoo.downloader import ModelDownloader

    if tag.endswith(".zip") and "://" not in tag:
        if not Path(tag).is_file():
            raise InputError(tag, "does not exist", "check --teacher_tag")
        # Beside what was unpacked before, which a damaged zip must not replace.
        folder = folder / fingerprint(tag)[:16]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files = ModelDownloader(folder).download_and_unpack(tag)
    except Exception as e:  # of requests, of Hugging Face, of the archive
        reason = ": ".join([type(e).__name__, *str(e).strip().splitlines()[:1]])
        raise InputError(
            f"--teacher_tag {tag}",
            f"cannot be had ({reason})",
            "check the tag and the network; or download the model where there is one, "
            "and give its zip as --teacher_tag",
        ) from e
    for task in TASKS:
        if {task.config_option, task.weights_option} <= files.keys():
            return files[task.config_option], files[task.weights_option]
    raise InputError(
        f"--teacher_tag {tag}",
        f"holds {sorted(files)}, no ASR model",
        f"give one of the tasks {' and '.join(task.name for task in TASKS)}",
    )


def main() -> None:
    args = get_parser().parse_args()
    files = fetch(args.tag, args.out / "zoo")
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.espnet.checkpoint import load_model

    load_model(*files)
    for file, name in zip(files, NAMES, strict=True):
        with atomic_path(args.out / name) as temporary:
            temporary.symlink_to(Path(file).resolve())
    logging.info(f"{args.out}: {args.tag}")


if __name__ == "__main__":
    run_main(main)
