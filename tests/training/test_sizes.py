"""One set of weights for several sizes: each computes what it is alone."""

import shutil
from pathlib import Path

import pytest
import torch
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch.func import functional_call

from espnet_prune import load, resize
from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.export.export import export
from espnet_prune.families.espnet.checkpoint import encoder_features, load_model
from espnet_prune.training.sizes import Sizes

SIZES = ("0", "0.3", "0.6")
TUNING = {
    "best_model_criterion": [["valid", "acc", "max"]],
    "max_epoch": 1,
    "keep_nbest_models": 2,  # they are averaged
    "distill": {"layers": 2, "layer_weight": 1.0, "output_weight": 1.0},
}


@pytest.fixture(scope="module")
def compacts(train, tmp_path_factory) -> list[Path]:
    """Compact models of two sizes, the smaller one made from the gates of the other."""
    folder, made = tmp_path_factory.mktemp("sizes"), []
    for size in SIZES[1:]:
        pruned, more = folder / f"pruned{size}", []
        if made:
            more = ["--previous", folder / f"pruned{SIZES[1]}"]
        train(pruned, "--target", size, *more)
        made.append(folder / f"compact{size}")
        config = pruned / "config.yaml"
        export(config, pruned / "latest.pth", made[-1], method="slimmable")
    return made


@pytest.fixture(scope="module")
def whole(train, compacts) -> Path:
    """The directory of the checkpoint of both, and of the whole model."""
    out = compacts[0].parent / "whole"
    train(out / "finetune", "--sizes", *compacts, **TUNING)
    return out


@pytest.fixture
def by_torch(monkeypatch):
    """No runtime: it would take seconds for each encoder."""
    from espnet_prune.serving import load as loading

    monkeypatch.setattr(loading, "has_runtime", lambda: False)


@pytest.fixture
def features(whole) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded batch."""
    size = encoder_features(load_model(*files(whole))[0])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 90, size, generator=generator), torch.tensor([90, 41])


def encoded(model, features):
    with torch.no_grad():
        return model.encoder(*features)[0]


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "config.yaml", folder / "finetuned.pth"


def test_each_size_computes_what_its_compact_model_does(
    whole, compacts, features, by_torch
):
    decoder = load(*files(whole), size="0.6")
    training = whole / "finetune"
    student, _ = load_model(training / "config.yaml", training / "valid.acc.ave.pth")
    seen = []
    for number, folder in reversed([*enumerate([whole, *compacts])]):
        resize(decoder, SIZES[number])
        seen.append(encoded(load_model(*files(folder))[0], features))
        ours = encoded(decoder.asr_model, features)
        torch.testing.assert_close(ours, seen[-1], rtol=0, atol=1e-5)
        tensors = student.sizes.replaced(student.tensors(), number)
        inside = {n: t for n, t in tensors.items() if n.startswith("encoder.")}
        with torch.no_grad():
            name = {n.removeprefix("encoder."): t for n, t in inside.items()}
            gated = functional_call(student.encoder, name, features)[0]
        torch.testing.assert_close(gated, seen[-1], rtol=0, atol=1e-5)
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(*seen[1:])
    first = decoder.asr_model.encoder
    resize(decoder, "0.6")
    resize(decoder, "0")
    assert decoder.asr_model.encoder is first  # nothing is cut again


def test_weights_of_all_sizes_are_slices_of_the_same(whole, compacts):
    states = [torch.load(files(f)[1], weights_only=True) for f in (whole, *compacts)]
    large, *small = states
    counts = [sum(t.numel() for t in state.values()) for state in states]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 3
    for state in small:
        for name in ("decoder.embed.0.weight", "ctc.ctc_lo.weight"):
            assert torch.equal(state[name], large[name])
    # Stock ESPnet loads the whole one: nothing of ours is in it.
    assert "prunable" not in files(whole)[0].read_text()


def test_training_moves_the_weights_and_each_size_s_own_statistics(whole, dense):
    before = torch.load(dense / "model.pth", weights_only=True)
    after = torch.load(files(whole)[1], weights_only=True)
    name = next(n for n in before if n.endswith("feed_forward.w_1.weight"))
    assert not torch.equal(before[name], after[name])
    told = torch.load(whole / "sizes.pth", weights_only=True)
    assert list(told) == [*SIZES[1:]]
    # Twice the recipe's epochs: the weights were those of the dense model.
    assert read_yaml(whole / "finetune/config.yaml")["max_epoch"] == 2
    mean = next(n for n in after if n.endswith("running_mean"))
    means = [after[mean], *(told[size]["statistics"][mean] for size in SIZES[1:])]
    means.append(before[mean])
    pairs = [(a, b) for i, a in enumerate(means) for b in means[:i]]
    assert not any(torch.equal(*pair) for pair in pairs)


def test_each_size_begins_with_the_statistics_of_the_dense_model(whole, dense):
    config = whole / "finetune/config.yaml"
    model = load_model(config, whole / "finetune/latest.pth")[0]
    before = torch.load(dense / "model.pth", weights_only=True)
    model.load_state_dict(model.state_dict() | before)
    for begun in (True, False):
        model.sizes.begun.fill_(begun)
        model.sizes.begin(model.tensors())
        for number in range(len(SIZES)):
            for name, own in model.sizes.statistics(number).items():
                assert torch.equal(own, before[name]) != begun


def test_other_masks_are_another_training(train, compacts, tmp_path):
    copies = [shutil.copytree(c, tmp_path / c.name) for c in compacts]
    out = tmp_path / "whole/finetune"
    train(out, "--sizes", *copies, **TUNING)
    kept = torch.load(copies[1] / "kept.pth")
    name = next(n for n in kept if n.endswith("feed_forward.unit"))
    kept[name] = kept[name].flip(0)
    torch.save(kept, copies[1] / "kept.pth")
    with pytest.raises(InputError, match="other options, data or weights"):
        train(out, "--sizes", *copies, **TUNING)


def test_sizes_that_there_are_not_are_refused(whole, compacts, by_torch):
    decoder = load(*files(whole), size=0.30)
    resize(decoder, "0")
    with pytest.raises(InputError, match=r"size 0.9: is not in it -> .*0, 0.3, 0.6"):
        resize(decoder, "0.9")
    with pytest.raises(InputError, match="the decoder: has one size"):
        resize(load(*files(compacts[0])), "0.3")
    with pytest.raises(InputError, match=r"sizes.pth: does not exist"):
        load(*files(compacts[0]), size="0.3")


def test_compact_models_that_are_not_for_this_are_refused(train, compact, tmp_path):
    (compact / "kept.pth").rename(compact / "kept.away")
    try:
        with pytest.raises(InputError, match=r"kept.pth: does not exist -> move"):
            train(tmp_path / "out" / "finetune", "--sizes", compact, **TUNING)
    finally:
        (compact / "kept.away").rename(compact / "kept.pth")


def test_the_largest_and_the_smallest_are_in_every_step(whole):
    model = load_model(whole / "finetune/config.yaml", whole / "finetune/latest.pth")[0]
    sizes = model.sizes
    assert sizes.names == SIZES
    sizes.train()
    assert [sizes.drawn() for _ in range(3)] == [[0, 1, 2]] * 3
    kept = {
        name: {s.name: torch.ones(s.size) for s in sizes.layout.structures}
        for name in ("0.8", "0.2", "0.4", "0.6")
    }
    many = Sizes(sizes.layout, model.tensors(), kept)
    drawn = [many.drawn() for _ in range(50)]
    assert {(d[0], d[-1], len(d)) for d in drawn} == {(0, 4, 3)}
    assert {d[1] for d in drawn} == {1, 2, 3}
    assert many.eval().drawn() == [0, 1, 2, 3, 4]


def test_all_sizes_of_a_step_hear_the_same_and_the_teacher_is_asked_once(
    whole, dense, monkeypatch
):
    from espnet_prune.training import student

    model = load_model(whole / "finetune/config.yaml", whole / "finetune/latest.pth")[0]
    model.set_teacher(load_model(dense / "config.yaml", dense / "model.pth")[0])
    model.train().normalize = UtteranceMVN(norm_vars=False)  # it works in place
    model.specaug = SpecAug(apply_time_warp=False, time_mask_width_range=[2, 9])
    heard, asked = [], []
    plain = student.run_teacher
    monkeypatch.setattr(student, "run_teacher", lambda *a: asked.append(1) or plain(*a))
    model.encoder.register_forward_pre_hook(
        lambda _m, args: heard.append(args[0].detach().clone())
    )
    speech, text = torch.randn(2, 6000), torch.tensor([[1, 2], [2, 1]])
    lengths = torch.tensor([6000, 5000]), torch.tensor([2, 2])
    model(speech, lengths[0], text, lengths[1])[0].backward()
    assert len(heard) == 3 and asked == [1]
    assert torch.equal(heard[0], heard[1]) and torch.equal(heard[1], heard[2])
    first = heard[0]
    model(speech, lengths[0], text, lengths[1])
    assert not torch.equal(heard[3], first)  # the next step has its own
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not [n for n in missing if not n.startswith("projection")]
