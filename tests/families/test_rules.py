"""What cannot be pruned, or not so, is refused by name."""

import inspect
import json
import logging

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet import rules
from espnet_prune.families.espnet.prunable import check_gates, check_student
from espnet_prune.families.registry import (
    CAPABILITIES,
    KINDS,
    TAKES,
    find_kind,
    kind_of,
    require,
)
from tests.fixtures.gated import CASES

RULES = {name: kind.rules for name, kind in KINDS.items()} | {"decoder": rules.DECODER}


def right(name, which=0):
    """Options that can be pruned: the usual ones, or the last where there are more."""
    return {
        option: value[which] if isinstance(value, tuple) else value
        for option, (value, _) in RULES[name].required.items()
    }


@pytest.mark.parametrize(
    ("name", "option"), [(n, option) for n, r in RULES.items() for option in r.required]
)
def test_option_of_another_value_is_refused_by_name(name, option):
    """By the rules, and by the class that ESPnet builds from a config."""
    value = right(name)[option]
    other = not value if isinstance(value, bool) else [1] if value == [] else "other"
    first = {"encoder_output_size": 8} if name == "decoder" else {}
    for check in (
        RULES[name].check,
        lambda given: CASES[name].ours(20, **first, **given),
    ):
        with pytest.raises(ValueError, match=f"_conf: {option}=.*must be"):
            check(right(name) | {option: other})


@pytest.mark.parametrize("name", RULES)
def test_rules_know_all_options_of_espnet_and_what_it_does_without_them(name):
    """A config that is silent about an option means ESPnet's default."""
    own, known = inspect.signature(CASES[name].stock).parameters, RULES[name]
    no_options = {"input_size", "vocab_size", "encoder_output_size", "pos_enc_class"}
    listed = known.required.keys() | known.free | known.left_out
    # ESPnet 202511 has no use_sdpa yet.
    assert own.keys() - no_options == listed - ({"use_sdpa"} - own.keys())
    for option, value in right(name).items():
        default = own[option].default
        assert value == default or not (value or default)
    with pytest.raises(ValueError, match=r"unknown option.*\['linear_unit_count'\]"):
        known.check(right(name) | {"linear_unit_count": 4})
    no_lists = {option: None for option, value in right(name).items() if value == []}
    known.check(right(name) | no_lists | {"architecture": None})
    known.check(right(name, -1))


def test_what_a_student_does_without_is_left_out_and_said(caplog):
    conf = {"layer_drop_rate": 0.1, "stochastic_depth_rate": 0.0, "num_blocks": 2}
    conf["use_sdpa"] = True
    with caplog.at_level(logging.WARNING):
        assert rules.CONFORMER.student(conf) == {"num_blocks": 2}
    for name in ("layer_drop_rate", "use_sdpa"):
        assert f"{name} of the teacher's training is left out" in caplog.text
    assert "stochastic_depth_rate" not in caplog.text  # it is 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"encoder": "rnn"},
            "encoder 'rnn' cannot be pruned -> use .*'e_branchformer'",
        ),
        ({"encoder": "multiconv_conformer"}, "'multiconv_conformer' cannot be pruned"),
        ({"encoder": "e_branchformer_ctc"}, "'e_branchformer_ctc' cannot be pruned"),
        ({"encoder": None}, "encoder None cannot be pruned"),
        ({"encoder_conf": {"use_cnn_module": False}}, "use_cnn_module=False is not"),
        ({"model": "maskctc"}, "model 'maskctc' cannot be pruned"),
        ({"decoder": "transducer"}, "a transducer decoder -> use a CTC, attention"),
        ({"preencoder": "sinc"}, "a model with preencoder 'sinc' cannot be pruned"),
        ({"postencoder": "length_adaptor"}, r"\['postencoder'\]"),
    ],
)
def test_models_that_are_no_students_are_refused(change, told):
    config = {"encoder": "conformer", "encoder_conf": right("conformer")}
    assert check_student(config, "a.yaml") is KINDS["conformer"]
    compact = config | {"encoder": "prunable_conformer", "model": "espnet"}
    assert check_student(compact, "a.yaml") is KINDS["conformer"]
    with pytest.raises(InputError, match=f"^a.yaml: .*{told}"):
        check_student(config | change, "a.yaml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"encoder_conf": {"architecture": {}}},
            "is compact already -> prune its dense",
        ),
        (
            {"decoder": "rnn"},
            "decoder 'rnn' cannot be pruned -> leave out prune_decoder",
        ),
        ({"decoder_conf": {"input_layer": "linear"}}, "input_layer='linear' is not"),
    ],
)
def test_students_that_cannot_have_gates_are_refused(change, told):
    config = {"encoder": "conformer", "decoder": "transformer", "decoder_conf": None}
    check_gates(config, "a.yaml", ["decoder"])
    with pytest.raises(InputError, match=f"^a.yaml: .*{told}"):
        check_gates(config | change, "a.yaml", ["decoder"])
    if "encoder_conf" not in change:
        check_gates(config | change, "a.yaml")


OURS = {"upstream": "espnet_prune", "path_or_url": "directory of the model"}


@pytest.mark.parametrize(
    ("name", "conf", "told"),
    [
        (None, {}, "frontend 'default' cannot be pruned -> leave out prune_frontend"),
        ("huggingface", {}, "'huggingface' cannot be .*upstream: espnet_prune"),
        (
            "s3prl",
            {"frontend_conf": OURS | {"upstream": "data2vec"}},
            "upstream 'data2vec' of its frontend cannot be pruned -> .*or train with"
            ".* upstream: espnet_prune, or one of hubert, .*, wavlm_large",
        ),
        (
            "s3prl",
            {"frontend_conf": {"upstream": "hubert"}},
            "upstream 'hubert' .*as it is -> .*translate_frontend --config a.yaml ",
        ),
        ("s3prl", {"frontend_conf": OURS | {"path_or_url": None}}, "lacks path_or_url"),
        (
            "s3prl",
            {"frontend_conf": OURS | {"upstream": "hubert"}, "layer": 0},
            "layer=0 is not supported .* -> leave out prune_frontend",
        ),
    ],
)
def test_frontends_that_cannot_have_gates_are_refused(name, conf, told):
    config = {"encoder": "conformer", "frontend": name, "frontend_conf": conf}
    check_gates(config, "a.yaml")
    with pytest.raises(InputError, match=f"^a.yaml: .*{told}"):
        check_gates(config, "a.yaml", ["frontend"])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"model_type": "wavlm"}, None),
        ({"model_type": "pruned_wavlm"}, "a.yaml: its frontend is compact already"),
        ({"model_type": "bert"}, "a model of type 'bert' cannot be pruned"),
        ({"model_type": "wavlm", "add_adapter": True}, "an adapter behind the encoder"),
    ],
)
def test_models_in_frontends_that_cannot_be_pruned_are_refused(model, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(model))
    options = OURS | {"path_or_url": str(tmp_path)}
    config = {"encoder": "conformer", "frontend": "s3prl"}
    config["frontend_conf"] = {"frontend_conf": options}
    if told is None:
        return check_gates(config, "a.yaml", ["frontend"])
    with pytest.raises(InputError, match=told):
        check_gates(config, "a.yaml", ["frontend"])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_a_kind_cannot_do_is_refused_in_one_place(capability):
    what, mend = CAPABILITIES[capability]
    require(find_kind("prunable_conformer"), capability, "an option")
    for name in ("transformer", "rnn"):
        if capability in getattr(find_kind(name), "can", ()):
            continue
        named = "'transformer'" if name in KINDS else "of this kind"
        with pytest.raises(InputError) as refusal:
            require(find_kind(name), capability, "an option")
        assert str(refusal.value) == (
            f"an option: an encoder {named} cannot be used so: {what} -> {mend}"
        )


@pytest.mark.parametrize("option", TAKES)
def test_what_an_option_takes_from_a_kind_is_refused_by_its_name(option):
    config = {"encoder": "prunable_conformer", "encoder_conf": {option: []}}
    assert kind_of(config) is kind_of({"encoder": "conformer"}) is KINDS["conformer"]
    config["encoder_conf"] = {option: [1]}
    assert TAKES[option] == KINDS["conformer"].can - kind_of(config).can
    for capability in CAPABILITIES.keys() - TAKES[option]:
        require(kind_of(config), capability, "an option")
    for capability in TAKES[option]:
        with pytest.raises(InputError, match=f"an encoder 'conformer' with {option} "):
            require(kind_of(config), capability, "an option")
    # What its kind cannot do without it is not told of the option.
    with pytest.raises(InputError, match="an encoder 'transformer' cannot be"):
        require(kind_of(config | {"encoder": "transformer"}), "small", "an option")


def test_compact_encoders_are_called_as_espnet_knows_them():
    for name, kind in KINDS.items():
        assert find_kind(kind.compact) is find_kind(name) is kind
        assert CASES[name].ours.kind.name == name
