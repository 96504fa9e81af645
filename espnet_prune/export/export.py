"""Cut the masked parts out: from a gated model to a small one that ESPnet loads."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import REFERENCE
from espnet_prune.config.rungs import refuse_rounding
from espnet_prune.config.sections import BESIDE, GateOptions
from espnet_prune.export.compact_dir import Compact, write_compact
from espnet_prune.families.espnet import frontend as frontends
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.model import ENCODER
from espnet_prune.families.registry import find_kind
from espnet_prune.measuring.cost import encoder_cost, rest_cost
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.low_rank import factorised
from espnet_prune.pruning.projection import Projection, as_it_is, project
from espnet_prune.pruning.slicing import sliced
from espnet_prune.training.resume import check_finished
from espnet_prune.training.student import lengths_in


def export(
    pruned: Path,
    checkpoint: Path,
    out: Path,
    multiple: int = 1,
    method: str | None = None,
) -> dict[str, Any]:
    """Write the compact model of a pruning run.

    Args:
        pruned: its ``config.yaml``.
        checkpoint: its model file; the last epoch, where the target is reached.
        out: the compact directory; appears only once its files are verified. An
            older one is kept if it holds the same model, else moved aside as a whole:
            what was fine-tuned and decoded from it does not belong to this one.
        multiple: of what the numbers of kept units, channels and dimensions shall be.
        method: of ``METHODS``, told of the model; by default as it was pruned.

    Returns:
        what ``pruning.json`` holds.

    Raises:
        InputError: files missing or not belonging together, target not reachable.
        RuntimeError: the compact model does not compute what the gated one does, or
            does not cost what the budget says.
    """
    import espnet_prune.training.task  # noqa: F401  (registers the student's model)

    config = read_yaml(pruned)
    model_conf = config.get("model_conf") or {}
    plan = model_conf.get("plan") or {}
    if model_conf.get("gates") is None and not plan:
        raise InputError(pruned, "has no gates", "give the directory of a pruning run")
    model, _ = load_model(pruned, checkpoint)
    check_finished(pruned)
    if model.gates is None:
        whole = Compact(model.state_dict(), config["encoder"])
        return write_compact(
            out, model, config, whole, lambda small: _of_small(small, config, plan)
        )
    budget = model.sparsity.budget
    refuse_rounding(plan.get("method", REFERENCE), multiple)
    ranks = plan.get("ranks")
    if ranks is None:
        projection = project(model.gates, budget, multiple)
    else:
        projection = as_it_is(model.gates, budget)
    model.gates.mask = projection.values.to(model.gates.log_alpha)
    layout = budget.layout
    kept = architecture_of(layout, projection.values)
    decoder = kept.pop("decoder", None)
    kind = find_kind(config["encoder"])
    frontend = frontends.architecture_of(layout, projection.values)
    tensors = sliced(layout, model.state_dict(), projection.values)
    if ranks:
        tensors = factorised(tensors, ranks)
        kept["ranks"] = {n.removeprefix(ENCODER): r for n, r in ranks.items()}
    cut = Compact(
        tensors,
        kind.compact,
        kept,
        decoder,
        frontend,
        {s.name: projection.values[layout.span(s.name)] for s in layout.structures},
    )

    def summarise(small: AbsESPnetModel) -> dict[str, Any]:
        check_budget(budget, projection, counted(small, model_conf))
        size = model.encoder.output_size()
        found = _summary(model, budget, projection) | {
            "method": method or plan.get("method", REFERENCE),
            "teacher": config["teacher_model"],
            "round_to": budget.rounded(multiple),
            "macs_frames": model_conf["budget"]["frames"],
            "removed": _removed(budget, projection.values, plan.get("saved", {})),
            "architecture": kept,
            "dense_architecture": architecture_of(layout, layout.whole()),
            "model_dim": [len(kept.get("dims", range(size))), size],
        }
        if decoder is not None:
            found["decoder"] = decoder
            found["dense_decoder"] = found["dense_architecture"].pop("decoder")
        if frontend is not None:
            whole = frontends.architecture_of(layout, layout.whole())
            found |= {"frontend": frontend, "dense_frontend": whole}
        return found

    return write_compact(out, model, config, cut, summarise)


def counted(small: AbsESPnetModel, model_conf: Mapping[str, Any]) -> dict[str, float]:
    """Count the cost of a compact model, in what its budget is a fraction of.

    Args:
        small: the model.
        model_conf: of the pruning run that it comes from.
    """
    budget, whole = model_conf["budget"], _is_whole(model_conf)
    found = encoder_cost(small.encoder, budget["frames"], budget["features"])
    if whole:
        rest = rest_cost(small, lengths_in(budget))
        found = {kind: found[kind] + rest[kind] for kind in found}
    return found


def check_budget(
    budget: Budget, projection: Projection, counted: Mapping[str, float]
) -> None:
    """Hold what is left against the budget, and its cost against a second count.

    Args:
        budget: by declaration.
        projection: what was chosen.
        counted: kind -> the same cost by counting.

    Raises:
        RuntimeError: the counts differ, or a limit is exceeded, or not used. Of several
            kinds of cost of the same structures, the one that was met first decides.
    """
    costs = budget.cost((projection.values != 0).double()).tolist()
    declared: dict[str, float] = {}
    beyond: dict[str, float] = {}
    for constraint, cost, allowed in zip(
        budget.constraints, costs, projection.slack, strict=True
    ):
        kind = constraint.kind
        declared[kind] = declared.get(kind, 0.0) + cost
        over = 1 - cost / constraint.dense - constraint.target
        least = beyond.get(constraint.name, math.inf)
        beyond[constraint.name] = min(least, over - allowed)
        if over < -1e-9:
            raise RuntimeError(
                f"{1 - cost / constraint.dense:.4f} of the {constraint.name}'s {kind} "
                f"is gone, the target is {constraint.target:.4f}"
            )
    for kind, cost in counted.items():
        if kind in declared and not math.isclose(declared[kind], cost, rel_tol=1e-6):
            raise RuntimeError(
                f"{declared[kind]:.0f} {kind} are left by declaration, {cost:.0f} by "
                "counting"
            )
    for name, more in beyond.items():
        if more > 1e-9:
            raise RuntimeError(f"more of the {name} is gone than its targets ask for")


def _is_whole(model_conf: Mapping[str, Any]) -> bool:
    return (model_conf["sparsity"] or {}).get("denominator") == "model"


def _summary(
    model: AbsESPnetModel, budget: Budget, projection: Projection
) -> dict[str, Any]:
    """Summarise targets, and how they were met, for ``pruning.json``."""
    gates, options = model.gates, model.sparsity.options
    with torch.no_grad():
        expected = budget.removed(gates.spread(gates.openness())).tolist()
        realised = budget.removed(gates.spread(gates.is_open().float())).tolist()

    def mean(fractions: list[float]) -> float:
        return sum(f * w for f, w in zip(fractions, budget.shares, strict=True))

    found = {
        "target": {
            "kind": options.kind,
            "value": options.target,
            "denominator": options.denominator,
            "groups": options.groups,
        },
        "expected_before_projection": mean(expected),
        "realised_before_projection": mean(realised),
        "realised": mean(projection.removed),
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
    }
    if budget.dim_target is not None:
        found["model_dim_target"] = budget.dim_target
    return found


def _removed(
    budget: Budget, values: Tensor, saved: Mapping[str, float]
) -> dict[str, float]:
    """Compute the fractions of the dense encoder's params and MACs that are gone.

    Args:
        budget: of the student.
        values: (unit,) final ones.
        saved: kind -> what lower ranks save.
    """
    layout, found = budget.layout, {}
    before = layout.sums(layout.whole())
    after = layout.sums((values != 0).double())
    for kind in ("params", "macs"):
        terms = [term for term in budget.terms[kind] if term.group not in BESIDE]
        left = evaluate(terms, after) - saved.get(kind, 0.0)
        found[kind] = 1 - float(left / evaluate(terms, before))
    return found


def _of_small(
    small: AbsESPnetModel, config: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Summarise a small dense model (nothing was pruned) for ``pruning.json``."""
    after = encoder_cost(small.encoder, plan["macs_frames"], plan["features"])
    gone = {kind: 1 - after[kind] / plan["dense_cost"][kind] for kind in after}
    kind = find_kind(config["encoder"])
    options = GateOptions()
    layout = kind.describe(small.encoder, options, gated=False).layout(small.encoder)
    return {
        **plan,
        "removed": gone,
        "realised": min(gone[kind] for kind in plan["target"]["kind"].split("+")),
        "architecture": architecture_of(layout, layout.whole()),
        "model_dim": [
            small.encoder.output_size(),
            config["model_conf"]["teacher_size"],
        ],
    }
