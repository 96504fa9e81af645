"""Cut the masked parts out: from a gated model to a small one that ESPnet loads."""

import math
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.export.compact_dir import kept_decoder, write_compact
from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.checkpoint import load_model, read_checkpoint
from espnet_prune.families.espnet.decoder import decoder_counts, to_dicts
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.families.espnet.layers.cost import Counts, add, times_dim
from espnet_prune.families.espnet.layers.structures import set_masks
from espnet_prune.pruning.budget import Budget, is_kept
from espnet_prune.pruning.projection import project


def export(
    pruned: Path, checkpoint: Path, out: Path, multiple: int = 1
) -> dict[str, Any]:
    """Write the compact model of a pruning run.

    Args:
        pruned: its ``config.yaml``.
        checkpoint: its model file; the last epoch, where the target is reached.
        out: the compact directory; appears only once its files are verified. An
            older one is kept if it holds the same model, else moved aside as a whole:
            what was fine-tuned and decoded from it does not belong to this one.
        multiple: of what the numbers of kept units, channels and dimensions shall be.

    Returns:
        what ``pruning.json`` holds.

    Raises:
        InputError: files missing or not belonging together, target not reachable.
        RuntimeError: the compact model does not compute what the gated one does.
    """
    import espnet_prune.training.task  # noqa: F401  (registers the student's model)

    config = read_yaml(pruned)
    plan = (config.get("model_conf") or {}).get("plan") or {}
    if (config.get("encoder_conf") or {}).get("gates") is None and not plan:
        raise InputError(pruned, "has no gates", "give the directory of a pruning run")
    model, _ = load_model(pruned, checkpoint)
    check_finished(pruned)
    if model.sparsity is None:
        small = trained_small(model, plan, config["model_conf"]["teacher_size"])
        return write_compact(out, model, config, small, None)
    encoder, options = model.encoder, model.sparsity.options
    budget = model.sparsity.budget
    with torch.no_grad():
        expected = budget.removed(model).tolist()
        realised = budget.removed(model, is_kept).tolist()
    projection = project(model, budget, multiple)
    set_masks(model, projection.masks)
    architecture, decoder = encoder.kept(), kept_decoder(model)
    counts = architecture.counts()
    if encoder.dim_gate is not None:
        counts = times_dim(counts, architecture.size or encoder.fixed.size)
    counts = add([counts, decoder_counts(decoder or [])])
    check_budget(budget, counts, projection.slack)

    def mean(fractions: list[float]) -> float:
        return sum(f * w for f, w in zip(fractions, budget.shares, strict=True))

    target = {"kind": options.kind, "value": options.target}
    summary = {
        "method": plan.get("method", "l0"),
        "teacher": config["teacher_model"],
        "target": target
        | {"denominator": options.denominator, "groups": options.groups},
        "expected_before_projection": mean(expected),
        "realised_before_projection": mean(realised),
        "realised": mean(projection.removed),
        "round_to": multiple,
        "gates_flipped": projection.flipped,
        "constraints": [
            {
                "of": constraint.name,
                "kind": constraint.kind,
                "target": constraint.target,
                "expected_before_projection": expected[i],
                "realised_before_projection": realised[i],
                "realised": projection.removed[i],
            }
            for i, constraint in enumerate(budget.constraints)
        ],
        "macs_seconds": options.macs_seconds,
        "macs_frames": model.macs_frames,
        "removed": removed(encoder, architecture, model.macs_frames),
        "architecture": architecture.to_dict(),
        "dense_architecture": encoder.architecture.to_dict(),
        "model_dim": [architecture.size or encoder.fixed.size, encoder.fixed.size],
    }
    if budget.dim_target is not None:
        summary["model_dim_target"] = budget.dim_target
    if decoder is not None:
        summary["decoder"] = to_dicts(decoder)
        summary["dense_decoder"] = to_dicts(model.decoder.architecture)
    return write_compact(out, model, config, summary, architecture)


def removed(
    encoder: PrunableEncoder, small: Architecture, frames: int
) -> dict[str, float]:
    """Fractions of the dense encoder's parameters and MACs that are gone."""
    before = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    after = small.cost(encoder.fixed, frames)["encoder"]
    kinds = ("params", "macs")
    return {k: 1 - getattr(after, k) / getattr(before, k) for k in kinds}


def trained_small(
    model: ESPnetASRModel, plan: dict[str, Any], dense_dim: int
) -> dict[str, Any]:
    """What ``pruning.json`` holds of a small dense model (nothing was pruned)."""
    encoder = model.encoder
    before = plan["dense_cost"]
    after = encoder.architecture.cost(encoder.fixed, plan["macs_frames"])["encoder"]
    gone = {kind: 1 - getattr(after, kind) / before[kind] for kind in before}
    return plan | {
        "removed": gone,
        "realised": min(gone[kind] for kind in plan["target"]["kind"].split("+")),
        "architecture": encoder.architecture.to_dict(),
        "model_dim": [encoder.fixed.size, dense_dim],
    }


def check_budget(budget: Budget, counts: Counts, slack: list[float]) -> None:
    """Hold the architecture that is left against the budget, by its own formula.

    Raises:
        RuntimeError: a limit is exceeded, or not used. Of several kinds of cost of the
            same structures, the one that was met first decides.
    """
    beyond: dict[str, float] = {}
    for constraint, allowed in zip(budget.constraints, slack, strict=True):
        over = constraint.removed(counts) - constraint.target
        least = beyond.get(constraint.name, math.inf)
        beyond[constraint.name] = min(least, over - allowed)
        if over < -1e-9:
            raise RuntimeError(
                f"{constraint.removed(counts):.4f} of the {constraint.name}'s "
                f"{constraint.kind} is gone, the target is {constraint.target:.4f}"
            )
    for name, more in beyond.items():
        if more > 1e-9:
            raise RuntimeError(f"more of the {name} is gone than its targets ask for")


def check_finished(pruned: Path) -> None:
    """Refuse a run whose target was still rising: its gates mean nothing yet."""
    config = read_yaml(pruned)
    checkpoint = pruned.parent / "checkpoint.pth"
    if not checkpoint.exists():
        return
    epoch = read_checkpoint(checkpoint)["reporter"]["epoch"]
    if epoch < config["max_epoch"]:
        raise InputError(
            checkpoint,
            f"pruning stopped after epoch {epoch} of {config['max_epoch']}",
            "run stage 12 again: it resumes",
        )
