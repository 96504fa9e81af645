"""The sections of a recipe, ``conf/prune.yaml``, as plain data; each checks itself."""

from dataclasses import dataclass, field

from espnet_prune.base.errors import OptionError

GATE_MODES = ("hard_concrete", "straight_through")
COSTS = ("params", "macs", "latency")
DENOMINATORS = ("encoder", "model")
ON_CPUS = ("fp32", "int8")  # precisions
STEERING = ("lagrangian", "magnitude", "feedback")
MODEL_DIM = "model_dim"
# What is pruned with the encoder where a recipe says ``prune_<name>: true``.
BESIDE = ("decoder", "frontend")


@dataclass(frozen=True)
class GateOptions:
    """Options of how the gates of an encoder are made.

    Args:
        mode: ``straight_through``, whose forward sees exactly 0 or 1 while the gradient
            is the hard concrete's (the idea of Wang et al. 2023, arXiv 2306.01385), or
            ``hard_concrete``: values from 0 to 1, folded into the weights at export.
        drop_rate_init: probability that a gate says "drop" at the start, above 0 and
            below 1; small, since the student starts as the teacher.
        fine_heads: whether the query/key and value dimensions inside each attention
            head have gates, too.
        model_dim: whether the channels between the layers have gates, too (CoFi's
            hidden dimensions, Xia et al. 2022, arXiv 2204.00408; Conformers without
            self-conditioned CTC); one gate closes a channel in all blocks.
        blocks: whether whole blocks have gates, too, each of which closes all
            submodules of its block: shallow encoders are faster than narrow ones.

    Raises:
        OptionError: unknown mode, or a rate outside (0, 1).
    """

    mode: str = "straight_through"
    drop_rate_init: float = 0.05
    fine_heads: bool = True
    model_dim: bool = False
    blocks: bool = False

    def __post_init__(self):
        if self.mode not in GATE_MODES:
            raise OptionError(
                f"gates: mode must be one of {GATE_MODES}, not {self.mode!r}"
            )
        if not 0 < self.drop_rate_init < 1:
            raise OptionError(
                f"gates: drop_rate_init must be in (0, 1), not {self.drop_rate_init}"
            )


@dataclass(frozen=True)
class SparsityOptions:
    """Options of what to remove, and how fast.

    Args:
        kind: what the target counts: ``params``, ``macs``, ``latency``, or several as
            ``params+macs``: that fraction of each at least.
        target: fraction of it to remove, above 0 and below 1.
        denominator: of what: ``encoder``, or ``model``: everything, decoder, CTC and a
            frontend with weights included (MACs: for one hypothesis; not for latency).
        groups: targets of their own, from 0 to below 1, for some of ``subsampling``,
            ``attention``, ``ffn``, ``convolution`` (of an E-Branchformer: ``cgmlp``),
            ``decoder``, ``frontend``; the others share what ``target`` leaves.
        model_dim: fraction of the channels between the layers to remove, from 0 to
            below 1, where they have gates. By default they thin out as much as the
            units: 1 - sqrt(1 - target), of the group that loses least; without a target
            of their own they would stay, for every layer feels one. Aimed at in
            training; the export keeps as many as were learned, and meets the other
            targets with what is inside.
        start: where the rise of the targets begins, by ``Constraint.key``: what is
            removed already, on the second rung of a ladder; set by ``--targets``.
        macs_seconds: length of the utterance whose MACs or latency count, in seconds.
        macs_tokens: tokens of its transcript, where the model's decoder counts, too.
        precision: ``fp32`` or ``int8``: in which the encoder will run, where its
            latency counts.
        warmup: fraction of the steps in which the target rises linearly, from 0 to 1.
        gate_lr: learning rate of the gates; by default 100 / updates, between 0.02 and
            0.3, so that the gates can close in short runs, too.
        multiplier_lr: learning rate of the Lagrange multipliers; by default 1.5 times
            that of the gates.
        max_multiplier: bound on the multipliers, against overshooting.
        by: what closes the gates: the ``lagrangian``, or, of baselines, the
            ``magnitude`` of their weights, with ``feedback`` to those that are closed;
            set by ``--method``.

    Raises:
        OptionError: an option outside its range, by name.
    """

    kind: str = "params"
    target: float = 0.5
    denominator: str = "encoder"
    groups: dict[str, float] = field(default_factory=dict)
    model_dim: float | None = None
    start: dict[str, float] = field(default_factory=dict)
    macs_seconds: float = 10.0
    macs_tokens: int = 30
    precision: str = "fp32"
    warmup: float = 0.5
    gate_lr: float | None = None
    multiplier_lr: float | None = None
    max_multiplier: float = 200.0
    by: str = "lagrangian"

    def __post_init__(self):
        unknown = set(self.kinds) - set(COSTS)
        if unknown or len(set(self.kinds)) != len(self.kinds):
            raise OptionError(
                f"sparsity: kind must be one of {COSTS}, or several as params+macs, "
                f"not {self.kind}"
            )
        _check_precision("sparsity", self.precision)
        if self.by not in STEERING:
            raise OptionError(f"sparsity: by must be one of {STEERING}, not {self.by}")
        if self.denominator not in DENOMINATORS:
            raise OptionError(
                f"sparsity: denominator must be one of {DENOMINATORS}, not "
                f"{self.denominator}"
            )
        if not 0 < self.target < 1:
            raise OptionError(
                f"sparsity: target is the fraction to remove, in (0, 1), not "
                f"{self.target}"
            )
        parts = self.groups | {MODEL_DIM: self.model_dim or 0}
        for name, target in parts.items():
            if not 0 <= target < 1:
                raise OptionError(
                    f"sparsity: {name} is the fraction to remove, in [0, 1), not "
                    f"{target}"
                )
        lengths = ("macs_seconds", "macs_tokens")
        for name in (*lengths, "gate_lr", "multiplier_lr", "max_multiplier"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"sparsity: {name} must be above 0, not {value}")
        if not 0 <= self.warmup <= 1:
            raise OptionError(f"sparsity: warmup must be in [0, 1], not {self.warmup}")

    @property
    def kinds(self) -> list[str]:
        return str(self.kind).split("+")


@dataclass(frozen=True)
class DistillOptions:
    """Loss terms and their weights.

    Args:
        task_weight: weight of ESPnet's CTC/attention loss.
        layer_weight: weight of the difference between blocks at the same depth, summed
            over them: mean |s - t| + 1 - cos(s, t) (Peng et al. 2023, arXiv 2305.17651,
            eq. 6).
        output_weight: weight of the KL divergence of CTC and decoder outputs, in the
            shares of the task loss.
        layers: how many blocks are compared, evenly spaced, the last among them; all of
            them where there are fewer.
        means: whether, instead of single blocks, the means over them and all blocks
            since the one before are compared (groups of layers, arXiv 2402.16830).
        precision: in which the student's encoder will run: ``int8`` rounds its weights
            and inputs while it is trained. Give it to stage 14, ``--finetune_args
            "--distill precision=int8"``, if int8 costs too much (``--precisions int8``
            shows it).

    Raises:
        OptionError: an option is outside its range, by name.
    """

    task_weight: float = 1.0
    layer_weight: float = 4.0
    output_weight: float = 0.0
    layers: int = 4
    means: bool = False
    precision: str = "fp32"

    def __post_init__(self):
        _check_precision("distill", self.precision)
        if min(self.task_weight, self.layer_weight, self.output_weight) < 0:
            raise OptionError("distill: weights must not be negative")
        if self.layers < 1:
            raise OptionError("distill: layers must be >= 1")

    @property
    def asks_teacher(self) -> bool:
        """Tell whether any term compares with the teacher."""
        return self.layer_weight > 0 or self.output_weight > 0

    def block_indices(self, num_blocks: int) -> list[int]:
        """Return 0-based indices of evenly spaced blocks, ending with the last."""
        n = min(self.layers, num_blocks)
        return [round((i + 1) * num_blocks / n) - 1 for i in range(n)]


def _check_precision(section: str, precision: str) -> None:
    if precision not in ON_CPUS:
        raise OptionError(
            f"{section}: precision must be one of {ON_CPUS}, not {precision!r}"
        )


# Of ``sparsity``: what a method and the rung before settle, not the user.
PLANNED = ("by", "start")
# The sections of a recipe that are the project's own.
SECTIONS = {
    "gates": GateOptions,
    "sparsity": SparsityOptions,
    "distill": DistillOptions,
}
