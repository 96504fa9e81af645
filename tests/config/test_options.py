"""Sections of a recipe: what a user wrote becomes options, or is refused by name."""

from typing import Any

import pytest

from espnet_prune.config.options import fits, make_options, optimizer_options
from espnet_prune.config.rungs import make_rungs
from espnet_prune.config.sections import SECTIONS, GateOptions, SparsityOptions


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("gates", {"mode": "soft"}, "mode must be one of"),
        ("gates", {"drop_rate_init": 1.0}, r"drop_rate_init must be in \(0, 1\)"),
        ("gates", {"fine_heads": 1}, "fine_heads must be of type bool"),
        ("distill", "none", "must hold `key: value` lines, not 'none'"),
        ("distill", {"wieght": 1.0}, "no option 'wieght'.* layers"),
        ("distill", {"layers": 2.5}, "layers must be of type int"),
        ("distill", {"layers": 0}, "layers must be >= 1"),
        ("distill", {"layers": 0}, "layers must be >= 1"),
        ("distill", {"layer_weight": -1.0}, "weights must not be negative"),
        ("sparsity", {"groups": 5}, "groups must be of type dict"),
        ("sparsity", {"groups": {"ffn": "a"}}, "groups must be"),
        ("sparsity", {"groups": {"ffn": 1.0}}, r"ffn is .*, in \[0, 1\), not 1.0"),
        ("sparsity", {"gate_lr": "1e-2"}, "gate_lr must be.* '1e-2'"),
        ("sparsity", {"max_multiplier": -1.0}, "must be above 0, not"),
        ("sparsity", {"macs_tokens": 0}, "macs_tokens must be above 0"),
        ("sparsity", {"warmup": 1.5}, "warmup must be in"),
        ("sparsity", {"target": True}, "target must be of type float"),
        ("sparsity", {"target": 1.0}, r"in \(0, 1\), not 1.0"),
        ("sparsity", {"kind": "flops"}, "kind must be one of"),
        ("sparsity", {"kind": "macs+macs"}, "kind must be one of"),
        ("sparsity", {"denominator": "decoder"}, "denominator must be one of"),
        ("sparsity", {"by": "luck"}, "by must be one of"),
        ("sparsity", {"precision": "bf16"}, "precision must be one of"),
        ("distill", {"precision": "int4"}, "precision must be one of"),
        ("sparsity", {"model_dim": 1.0}, r"model_dim is .*, in \[0, 1\)"),
    ],
)
def test_wrong_option_is_named(section, values, message):
    with pytest.raises(ValueError, match=f"^{section}: .*{message}"):
        make_options(SECTIONS[section], section, values)


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
    + [({"a": 1}, dict[str, float], True), (True, int, False)],
)
def test_types_are_those_of_the_annotation(value, annotation, expected):
    assert fits(value, annotation) is expected


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({}, "lr is missing"),
        ({"lr": "5e-4"}, "lr must be a number, not '5e-4'"),  # YAML takes it for text
        ({"lr": 0.1, "betas": 1}, r"unknown option\(s\) \['betas'\]"),
    ],
)
def test_wrong_option_of_the_optimizer_is_named(conf: dict[str, Any], message):
    with pytest.raises(ValueError, match=f"^optim_conf: {message}"):
        optimizer_options(conf)
    assert optimizer_options({"lr": 1})["max_norm"] == 5.0


def test_rungs_are_climbed_method_by_method_l0_first():
    rungs = make_rungs(["random", "l0"], [0.5, 0.725], "params+macs", 8)
    assert [rung.pruned for rung in rungs] == [
        "params_macs50", "params_macs72.5", "random_params_macs50",
        "random_params_macs72.5",
    ]  # fmt: skip
    assert {rung.compact for rung in rungs} == {f"{r.pruned}_r8" for r in rungs}
    assert [rung.previous for rung in rungs] == [None, rungs[0], None, None]
