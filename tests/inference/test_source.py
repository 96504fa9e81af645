"""A fast encoder stands for its layers as they are, and only if it computes them."""

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from espnet_prune.families.espnet import conformer
from espnet_prune.families.espnet.encoder import PrunableEncoder


def assert_close(actual, expected):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-5 * scale, rtol=0)


@torch.no_grad()
def encode(encoder, x, lengths):
    return encoder(x, lengths)[0]


@torch.no_grad()
def layers_own(encoder, x, lengths):
    return PrunableEncoder.forward(encoder, x, lengths)[0]


def step(encoder, x, lengths):
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(x, lengths)[0].square().mean().backward()
    optimizer.step()


def put_data(encoder, *_):
    weight = encoder.encoders[0].self_attn.linear_q.weight
    weight.data = torch.randn_like(weight)


@torch.no_grad()
def put_twin(encoder, *_):
    """Another parameter at the same address that was written to as often."""
    layer = encoder.encoders[0].self_attn.linear_q
    twin = nn.Parameter(layer.weight.data)
    while twin._version < layer.weight._version:
        twin *= 1.5
    layer.weight = twin


def put_parameter(encoder, *_):
    layer = encoder.encoders[0].self_attn.linear_q
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def put_tensor(encoder, *_):
    layer = encoder.encoders[0].self_attn.linear_q
    del layer.weight
    layer.weight = torch.randn(16, 16)


def put_layer(encoder, *_):
    layer = copy.deepcopy(encoder.encoders[0].feed_forward)
    nn.init.normal_(layer.w_1.weight)
    encoder.encoders[0].feed_forward = layer


def put_activation(encoder, *_):
    encoder.encoders[0].feed_forward.activation = nn.Tanh().eval()


def put_state(encoder, *_):
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    state["encoders.0.conv_module.norm.running_mean"] += 1
    encoder.load_state_dict(state, assign=True)


def train(encoder, x, lengths):
    encoder.train()(x, lengths)  # new BatchNorm statistics
    encoder.eval()


def train_a_part(encoder, x, lengths):
    encoder.encoders[0].conv_module.train()


def double(encoder, *_):
    encoder.double()


class Adapted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.flip(-1) @ self.weight.t()


def adapt(encoder, *_):
    layer = encoder.encoders[0].feed_forward
    layer.w_1, old = Adapted(16, 32), layer.w_1
    layer.w_1.load_state_dict(old.state_dict())


def adapt_in_place(encoder, *_):
    encoder.encoders[0].feed_forward.w_1.__class__ = Adapted


def patch(encoder, *_):
    layer = encoder.encoders[0].feed_forward
    layer.forward = lambda x: -type(layer).forward(layer, x)


def normalize(encoder, *_):
    layer = encoder.encoders[0].feed_forward.w_1
    torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0 *= 2


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        *(step, put_data, put_twin, put_parameter, put_tensor, put_layer),
        *(put_activation, put_state, train, train_a_part, double),
        *(adapt, adapt_in_place, patch, normalize),
    ],
)
def test_changes_are_seen(make_encoder, batch, change, called_before):
    encoder = make_encoder().eval()
    x, lengths = batch()
    before = layers_own(encoder, x, lengths)
    if called_before:
        assert_close(encode(encoder, x, lengths), before)
    change(encoder, x, lengths)
    x = x.to(encoder.after_norm.weight.dtype)
    after = encode(encoder, x, lengths)
    assert after.dtype == x.dtype
    assert_close(after, layers_own(encoder, x, lengths))
    assert change is double or not torch.allclose(after, before, atol=1e-3)


def test_places_of_what_was_there_are_not_given_away(make_encoder, batch):
    """Something else could pass for it there."""
    encoder, memory = make_encoder().eval(), np.ones((16, 16), "float32")
    block = encoder.encoders[0]
    block.self_attn.linear_q.weight.data = torch.from_numpy(memory)
    encode(encoder, *batch())
    left = [weakref.ref(memory), weakref.ref(block.dropout)]
    del memory
    block.self_attn.linear_q.weight.data = torch.ones(16, 16)
    block.dropout = nn.Dropout().eval()
    assert all(ref() is not None for ref in left)
    encode(encoder, *batch())
    assert all(ref() is None for ref in left)


def test_weights_that_are_no_parameters_are_followed(make_encoder, batch):
    encoder = make_encoder().eval()
    inputs = batch()
    put_tensor(encoder)
    for _ in range(2):
        encoder.encoders[0].self_attn.linear_q.weight = torch.randn(16, 16)
        assert_close(encode(encoder, *inputs), layers_own(encoder, *inputs))


def test_dropout_in_train_mode_draws_anew(make_encoder, batch):
    encoder = make_encoder(dropout_rate=0.3).eval()
    inputs = batch()
    before = encode(encoder, *inputs)
    dropouts = [m for m in encoder.modules() if isinstance(m, nn.Dropout)]
    for dropout in dropouts:
        dropout.train()
    assert not torch.equal(encode(encoder, *inputs), encode(encoder, *inputs))
    encoder.eval()
    assert torch.equal(encode(encoder, *inputs), before)


@torch.no_grad()
def test_weights_lent_for_a_call_are_used_in_it_alone(make_encoder, batch):
    encoder = make_encoder().eval()
    inputs = batch()
    before, derived = encode(encoder, *inputs), encoder._derived
    lent = {k: 1.5 * v for k, v in encoder.named_parameters()}
    actual, _, _ = torch.func.functional_call(encoder, lent, inputs)
    other = copy.deepcopy(encoder)
    other.load_state_dict(encoder.state_dict() | lent)
    assert_close(actual, layers_own(other, *inputs))
    assert torch.equal(encode(encoder, *inputs), before)
    assert encoder._derived is derived


def test_a_call_amid_the_making_of_another_sees_the_weights(
    make_encoder, batch, monkeypatch
):
    """As of two threads, but in the order that went wrong."""
    encoder, calls, found = make_encoder().eval(), [], []
    inputs = batch()
    encode(encoder, *inputs)
    step(encoder, *inputs)
    fast_encoder = conformer.FastEncoder

    def interrupted(*layers):
        calls.append(layers)
        if len(calls) == 1:
            found.append(encode(encoder, *inputs))
        return fast_encoder(*layers)

    monkeypatch.setattr(conformer, "FastEncoder", interrupted)
    found.append(encode(encoder, *inputs))
    for actual in found:
        assert_close(actual, layers_own(encoder, *inputs))
    assert len(found) == 2


@pytest.mark.parametrize("change", ["train", "double"])
def test_no_copy_of_the_weights_is_held_beside_new_ones(make_encoder, batch, change):
    encoder = make_encoder().eval()
    encode(encoder, *batch())
    assert encoder._derived is not None
    getattr(encoder, change)()
    assert encoder._derived is None


def test_frozen_weights_need_no_no_grad(make_encoder, batch):
    encoder = make_encoder().eval().requires_grad_(False)
    x, lengths = batch()
    out, _, _ = encoder(x, lengths)
    assert encoder._derived is not None
    assert_close(out, layers_own(encoder, x, lengths))


def test_gradients_of_the_input_are_to_be_had(make_encoder, batch):
    encoder = make_encoder().eval().requires_grad_(False)
    x, lengths = batch((61,))

    def total(x):
        return encoder(x, lengths)[0].square().sum()

    total(x.requires_grad_()).backward()
    along = torch.randn_like(x)
    with torch.no_grad():  # which forward mode does not mind
        _, slope = torch.func.jvp(total, (x.detach(),), (along,))
    torch.testing.assert_close(slope, (x.grad * along).sum())
