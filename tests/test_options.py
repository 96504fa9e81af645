import pytest

from espnet_prune.config.options import fits, make_options
from espnet_prune.pruning.gates import GateOptions
from espnet_prune.pruning.sparsity import SparsityOptions
from espnet_prune.training.distill import DistillOptions


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
    + [("1", float | None, False), ({1: 1.0}, dict[str, float], False)],
)
def test_types_are_those_of_the_annotation(value, annotation, expected):
    assert fits(value, annotation) is expected
