"""A model hears audio by itself, and says what matters of what its layers give."""

import torch

from espnet_prune.training.hearing import direction, hear


def test_ctc_and_all_that_is_encoded_have_half_of_the_say_each(make_model):
    model = make_model().eval()
    encoded = torch.randn(1, 30, 16)
    ctc, model.ctc = model.ctc, None
    signs = direction(model, encoded, torch.Generator().manual_seed(1))
    assert signs.abs().eq(1).all() and signs.unique().numel() == 2
    model.ctc = ctc
    both = direction(model, encoded, torch.Generator().manual_seed(1))
    by_ctc = both - signs
    torch.testing.assert_close(by_ctc.square().mean(), torch.tensor(1.0))


def test_a_model_is_heard_one_by_one_and_left_as_it_was(make_model):
    model = make_model().eval()
    model.requires_grad_(False)
    name = "encoder.encoders.0.feed_forward.w_1"
    audio = [0.1 * torch.randn(n).numpy() for n in (8000, 5000)]
    both = hear(model, [name], audio)[name]
    (first, second) = (hear(model, [name], [samples])[name] for samples in audio)
    frames = [
        int(model.encode(torch.from_numpy(a)[None], torch.tensor([len(a)]))[1])
        for a in audio
    ]
    mean = (frames[0] * first.inputs + frames[1] * second.inputs) / sum(frames)
    torch.testing.assert_close(both.inputs, mean, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.encoder._forward_pre_hooks
