"""Plan the training of one set of weights for several sizes (stage 14)."""

import argparse
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.rungs import KEPT
from espnet_prune.config.sections import BESIDE, MODEL_DIM
from espnet_prune.families.espnet.checkpoint import read_state
from espnet_prune.families.espnet.prunable import check_gates, check_student
from espnet_prune.training.choices import require_all
from espnet_prune.training.configs import model_config, training_part
from espnet_prune.training.recipe import told_of


def slimmable_config(
    args: argparse.Namespace, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Configure the dense model to learn for what is kept in several compact ones.

    It takes twice the epochs of a fine-tuning, for its weights have had no pruning.

    Args:
        args: of ``espnet_prune.cli.prune_train``, with ``--sizes``.
        recipe: ``conf/finetune*.yaml``.

    Raises:
        InputError: the compact models were not exported for this, or have more than
            their encoder pruned.
    """
    source = args.teacher_config
    teacher = read_yaml(source)
    config = model_config(teacher, source)
    check_gates(config, source)
    require_all(check_student(teacher, source), args, recipe)
    if config["model_conf"].get("ctc_weight") == 1:  # no decoder, no accuracy
        recipe["best_model_criterion"] = [["valid", "loss", "min"]]
    sizes, structures = {}, set()
    for compact in args.sizes:
        file, told = compact / KEPT, told_of(compact)
        if not file.is_file():
            mend = "move the directory away, and export it again (stage 13)"
            raise InputError(file, "does not exist", mend)
        for part in BESIDE:
            if part in told:
                what = f"its {part} was pruned; several sizes are those of an encoder"
                raise InputError(compact, what, f"leave out prune_{part}")
        sizes[f"{told['target']['value']:g}"] = str(file)
        structures |= read_state(file).keys()
    recipe["max_epoch"] = 2 * recipe.get("max_epoch", 1)
    config["model"] = "prune"
    config["model_conf"] |= {
        "encoder_kind": config["encoder"],
        "gates": {"model_dim": MODEL_DIM in structures},
        "sizes": sizes,
        "distill": recipe.get("distill") or {},
    }
    return config | training_part(recipe)
