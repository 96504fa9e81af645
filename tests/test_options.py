from typing import Any

import pytest
from espnet_prune.pruning.sparsity import SparsityOptions

from espnet_prune.base.errors import InputError
from espnet_prune.config.options import fits, make_options
from espnet_prune.pruning.gates import GateOptions
from espnet_prune.training.distill import DistillOptions
from espnet_prune.training.recipe import refusing


@pytest.mark.parametrize(
    ("kind", "section", "values", "message"),
    [
        (DistillOptions, "distill", {"wieght": 1.0}, "no option 'wieght'.* layers"),
        (DistillOptions, "distill", {"layers": 2.5}, "layers must be of type int"),
        (DistillOptions, "distill", {"projection": 1}, "projection must be.* bool"),
        (SparsityOptions, "sparsity", {"groups": 5}, r"groups must be of type dict"),
        (SparsityOptions, "sparsity", {"groups": {"ffn": "a"}}, "groups must be"),
        (SparsityOptions, "sparsity", {"gate_lr": "1e-2"}, "gate_lr must be.* '1e-2'"),
        (SparsityOptions, "sparsity", {"max_multiplier": -1.0}, "must be above 0, not"),
        (SparsityOptions, "sparsity", {"target": True}, "target must be of type float"),
        (DistillOptions, "distill", "none", "must hold `key: value` lines, not 'none'"),
        (GateOptions, "gates", {"mode": "soft"}, "mode must be one of"),
    ],
)  # fmt: skip
def test_wrong_option_is_named(kind, section, values, message):
    with pytest.raises(ValueError, match=f"^{section}: .*{message}"):
        make_options(kind, section, values)


def test_right_options_and_none_at_all_are_taken():
    options = make_options(
        SparsityOptions,
        "sparsity",
        {"target": 0.3, "groups": {"ffn": 0}, "gate_lr": None, "multiplier_lr": 1},
    )
    assert options == SparsityOptions(target=0.3, groups={"ffn": 0}, multiplier_lr=1)
    assert make_options(GateOptions, "gates", None) == GateOptions()


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [(1, float, True), (1.0, int, False), (None, float | None, True)]
    + [("1", float | None, False), ({1: 1.0}, dict[str, float], False)]
    + [({"a": [1]}, dict[str, Any] | None, True), ({1: 1}, dict[str, Any], False)]
    + [([{"a": 1}], list[dict[str, int]] | None, True), ([1], list[str], False)],
)
def test_types_are_those_of_the_annotation(value, annotation, expected):
    assert fits(value, annotation) is expected


class Layers:
    """Takes options of its own, and leaves further ones to itself."""

    def __init__(self, size: int, heads: int = 4, rate: float = 0.1, **options: Any):
        if unknown := options.keys() - {"known"}:
            raise ValueError(f"encoder_conf: unknown option(s) {sorted(unknown)}")
        self.made_of = size, heads, rate, options


def test_constructor_is_given_what_it_takes():
    made = make_options(Layers, "encoder_conf", {"heads": 2, "known": "x"}, 8)
    assert made.made_of == (8, 2, 0.1, {"known": "x"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": "2"}, "heads must be of type int, not '2'"),
        ({"size": 8}, "no option 'size'; there are: heads, rate"),
        ({8: 8}, "no option 8; there are"),
        ({"unknown": 8}, r"unknown option\(s\) \['unknown'\]"),
    ],
)
def test_what_a_constructor_does_not_take_is_named(values, message):
    with pytest.raises(ValueError, match=f"^encoder_conf: {message}"):
        make_options(Layers, "encoder_conf", values, 8)


def test_defect_of_ours_is_no_mistake_of_the_user():
    """It must come with its traceback, not as one line about a file."""
    with pytest.raises(TypeError), refusing("prune.yaml"):
        len(None)
    with pytest.raises(InputError, match="^prune.yaml: gates: no option 'mood'"):
        with refusing("prune.yaml"):
            make_options(GateOptions, "gates", {"mood": 1})
