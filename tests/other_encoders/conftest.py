"""Encoders and models of each kind beside the Conformer."""

import functools

import pytest
from kinds import FEATURES, KINDS, NO_DROPOUT, Kind


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request) -> Kind:
    return request.param


@pytest.fixture
def pair(kind, shake):
    """``pair(**sizes)``: ESPnet's encoder, and ours with its weights."""

    def make(**sizes):
        conf = kind.sizes | NO_DROPOUT | sizes
        stock = shake(kind.stock(FEATURES, **conf))
        ours = kind.ours(FEATURES, **conf)
        ours.load_state_dict(stock.state_dict())
        return stock, ours

    return make


@pytest.fixture
def gated(kind, shake):
    def make(**conf):
        conf = kind.sizes | NO_DROPOUT | {"gates": {}} | conf
        return shake(kind.ours(FEATURES, **conf)).eval()

    return make


@pytest.fixture
def compact_of(kind):
    """``compact_of(gated, **conf)``: the compact encoder that the masks leave."""

    def make(gated, **conf):
        conf = kind.sizes | NO_DROPOUT | conf
        compact = kind.ours(FEATURES, **conf, architecture=gated.kept().to_dict())
        compact.load_state_dict(gated.sliced_state(), strict=True)
        return compact.eval()

    return make


@pytest.fixture(scope="session")
def dense_models(make_dense):
    """``dense_models(kind)``: directory of a random ESPnet model with its encoder."""

    @functools.cache
    def make(kind):
        rates = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
        return make_dense(encoder=kind.name, encoder_conf=kind.sizes | rates)

    return make


@pytest.fixture
def dense_model(kind, dense_models):
    return dense_models(kind)
