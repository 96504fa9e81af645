"""A checkpoint of the other version of ESPnet, whose subsampling has other names."""

import pytest
import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.names import linear_of
from tests.fixtures.gated import CASES

OLD, NEW = ".out.0.", ".out."
every = pytest.mark.parametrize("name", [name for name in CASES if name != "decoder"])


def as_elsewhere(state):
    """The same tensors as ESPnet's other version names them."""
    here, there = (OLD, NEW) if any(OLD in name for name in state) else (NEW, OLD)
    renamed = {
        n.replace(here, there) if "embed" in n else n: t for n, t in state.items()
    }
    assert len(renamed.keys() - state.keys()) == 2
    return renamed


def assert_equal(model, state):
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name


@every
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("compact", [True, False])
def test_encoders_load_either_name(name, strict, compact):
    gated = CASES[name].make()
    source = gated.compact(gated.open()) if compact else gated.stock
    other = CASES[name].make(seed=1)
    target = other.compact(other.open()) if compact else other.stock
    state = source.state_dict()
    target.load_state_dict(as_elsewhere(state), strict=strict)
    assert_equal(target, state)


@every
def test_either_name_but_no_other(name):
    gated = CASES[name].make()
    compact = gated.compact(gated.open())
    state = as_elsewhere(compact.state_dict())
    for change, more in (("misses", {}), ("adds", {"embed.out.7.weight": 0})):
        wrong = state | more
        if not more:
            del wrong[next(n for n in state if n.startswith("embed.out."))]
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=f"{change} 1 key"):
                compact.load_state_dict(wrong, strict=strict)


@pytest.fixture(scope="module")
def elsewhere(dense, tmp_path_factory):
    """Weights of the dense model as the other version would have saved them."""
    path = tmp_path_factory.mktemp("elsewhere") / "model.pth"
    torch.save(as_elsewhere(torch.load(dense / "model.pth")), path)
    return path


def test_espnets_own_loading_takes_the_weights_of_the_other_version(dense, elsewhere):
    """It is not strict: a layer would stay as random as it was."""
    state = torch.load(dense / "model.pth")
    assert_equal(load_model(dense / "config.yaml", elsewhere)[0], state)
    decode = Speech2Text(dense / "config.yaml", elsewhere, lm_weight=0.0)
    assert_equal(decode.asr_model, state)


def test_training_starts_from_the_weights_of_the_other_version(
    make_model, dense, elsewhere
):
    """ESPnet 202611 would keep its own, random ones."""
    state = torch.load(dense / "model.pth")
    model, _ = load_model(dense / "config.yaml", dense / "model.pth")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load_pretrained_model(str(elsewhere), model, ignore_init_mismatch=False)
    assert_equal(model, state)


def test_the_linear_layer_is_found_by_its_name_here(make_stock):
    embed = make_stock().embed
    assert isinstance(embed.get_submodule(linear_of(embed)), torch.nn.Linear)
