"""Make one model of several fine-tunings of a compact one (stage 14, ``--soup``).

Each fine-tuning gives the average of its best epochs. Those go into a greedy soup: what
does not make its error on the validation set rise stays in. ``finetuned.pth`` is the
soup; ``soup.json`` beside it tells what is in, and all errors.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import code_version, fingerprint, read_yaml, write_json
from espnet_prune.config.rungs import FINETUNED, PRUNED, SOUP

if TYPE_CHECKING:
    from espnet_prune.measuring.validation import Validation


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compact", type=Path, required=True, help="its directory")
    parser.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="its fine-tunings"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    import torch

    from espnet_prune.data.audio import audio_digest
    from espnet_prune.measuring.validation import Validation

    configs = [read_yaml(run / "config.yaml") for run in args.runs]
    weights = [averaged(*pair) for pair in zip(args.runs, configs, strict=True)]
    # What the best epochs of the first were chosen by, and so of all.
    data = {row[1]: row for row in configs[0]["valid_data_path_and_name_and_type"]}
    audio, text = data["speech"], Path(data["text"][0])
    config, told = args.compact / "config.yaml", args.compact / SOUP
    made_of = [fingerprint(path) for path in (config, text, *weights)]
    made_of += [audio_digest(Path(audio[0])), code_version()]
    if told.is_file() and (args.compact / FINETUNED).is_file():
        if json.loads(told.read_text(encoding="utf-8"))["made_of"] == made_of:
            logging.info(f"{told}: made before, of the same fine-tunings")
            return
    # The fine-tunings may have run on GPUs of other machines.
    on_gpu = configs[0]["ngpu"] > 0 and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    validation = Validation(config, args.compact / PRUNED, audio, text, device)
    found = cook(args.compact, weights, validation)
    for ingredient, options in zip(found["ingredients"], configs, strict=True):
        ingredient["seed"] = options["seed"]
    write_json(told, found | {"validation": str(text.parent), "made_of": made_of})


def averaged(run: Path, options: dict[str, Any]) -> Path:
    """Name the averaged weights of a fine-tuning.

    Args:
        run: its directory.
        options: its config.

    Raises:
        InputError: they are not there.
    """
    from espnet_prune.training.origin import averaged_name

    path = run / averaged_name(options["best_model_criterion"])
    if not path.exists():
        raise InputError(path, "was not written", "see the training's log")
    return path


def cook(
    compact: Path, weights: list[Path], validation: "Validation"
) -> dict[str, Any]:
    """Write the soup as ``finetuned.pth``, and return what ``soup.json`` tells of it.

    Args:
        compact: directory of the compact model.
        weights: of its fine-tunings.
        validation: tells their errors.
    """
    from espnet_prune.export.compact_dir import model_state, place_weights
    from espnet_prune.families.espnet.checkpoint import read_state
    from espnet_prune.training.soup import average, choose

    states = [model_state(read_state(path)) for path in weights]
    names, metric = [path.parent.name for path in weights], validation.metric.name

    def soup(numbers: list[int]) -> dict[str, Any]:
        return average([states[number] for number in numbers])

    def error_of(numbers: list[int]) -> float:
        error = validation.error(soup(numbers))
        what = " + ".join(names[number] for number in numbers)
        logging.info(f"{what}: {metric} {error:.2%} on the validation set")
        return error

    alone = [error_of([number]) for number in range(len(states))]
    chosen, error = choose(alone, error_of)
    place_weights(soup(chosen), compact)
    what = f"the average of {len(chosen)} of {len(names)}"
    logging.info(f"{compact / FINETUNED}: {metric} {error:.2%}, {what}")
    return {
        "metric": metric,
        "decoding": "CTC greedy",
        "error_rate": error,
        "best_single": min(alone),
        "ingredients": [
            {"run": name, "error_rate": rate, "is_in": number in chosen}
            for number, (name, rate) in enumerate(zip(names, alone, strict=True))
        ],
    }


if __name__ == "__main__":
    run_main(main)
