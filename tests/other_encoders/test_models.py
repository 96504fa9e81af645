"""The other encoders in whole models: stages, decoding, distillation."""

import pytest
import torch
from kinds import KINDS, NO_DROPOUT


def prune(python, dense, data_options, out, *options):
    recipe = out.parent / "recipe.yaml"
    recipe.write_text(
        "sparsity: {macs_seconds: 1.0}\ndistill: {layers: 2}\n"
        "optim_conf: {lr: 0.0005}\n"
        "batch_type: numel\nbatch_bins: 40000\nnum_workers: 0\nmax_epoch: 2\n"
        "num_att_plot: 0\nuse_matplotlib: false\nuse_tensorboard: false\n"
        "best_model_criterion: [[valid, sparsity_realised, max]]\n"
    )
    model = ["--model_config", dense / "config.yaml", "--model_file"]
    model += [dense / "model.pth", "--teacher_config", dense / "config.yaml"]
    model += ["--teacher_model", dense / "model.pth", "--output_dir", out]
    command = ["--phase", "prune", "--recipe", recipe, "--target", 0.5, *options]
    return python("-m", "espnet_prune.cli.prune_train", *command, *model, *data_options)


@pytest.mark.slow
def test_it_is_pruned_exported_and_decoded_by_stock_espnet(
    kind, python, dense_model, data_options, data_dir, tmp_path
):
    import soundfile
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_prune.export.export import export

    out = tmp_path / "pruned"
    result = prune(python, dense_model, data_options, out, "--kind", "params+macs")
    assert result.returncode == 0, result.stderr[-3000:]
    summary = export(out / "config.yaml", out / "latest.pth", tmp_path / "compact")
    assert min(summary["removed"].values()) >= 0.5
    assert summary["architecture"]["kind"] == kind.name
    decoder = Speech2Text(
        tmp_path / "compact/config.yaml", tmp_path / "compact/pruned.pth", beam_size=2
    )
    speech, _ = soundfile.read(data_dir / "utt03.wav", dtype="float32")
    assert isinstance(decoder(speech)[0][0], str)


@pytest.mark.parametrize(
    "kind, options, told",
    [
        (
            KINDS["transformer"],
            ("--kind", "latency"),
            "latency of an encoder 'transformer' cannot be measured",
        ),
        (
            KINDS["e_branchformer"],
            ("--kind", "params", "--method", "small"),
            "makes a small Conformer, the dense encoder is 'e_branchformer'",
        ),
    ],
    ids=str,
)
def test_what_is_for_conformers_only_is_refused(
    kind, python, dense_model, data_options, tmp_path, options, told
):
    result = prune(python, dense_model, data_options, tmp_path / "out", *options)
    assert result.returncode == 2 and told in result.stderr, result.stderr[-2000:]


def test_lower_precisions_are_refused(kind, dense_model):
    from espnet_prune.base.errors import InputError
    from espnet_prune.serving.load import load

    with pytest.raises(InputError, match=rf"its encoder \({kind}\) is not one"):
        load(dense_model / "config.yaml", dense_model / "model.pth", "int8")


def test_greedy_decoding_takes_it_one_by_one(dense_model, data_dir):
    import soundfile

    from espnet_prune.serving.greedy import GreedyDecoder, collapse
    from espnet_prune.serving.load import load

    files = dense_model / "config.yaml", dense_model / "model.pth"
    model = load(*files).asr_model
    names = ("utt00", "utt05", "utt09")
    audio = [soundfile.read(data_dir / f"{n}.wav", dtype="float32")[0] for n in names]
    audio = [torch.from_numpy(samples) for samples in [*audio, audio[0][:600]]]
    *found, short = [ids for ids, _ in GreedyDecoder(model)(audio)]
    assert short == []
    with torch.no_grad():
        for samples, ids in zip(audio, found, strict=False):
            out, _ = model.encode(samples[None], torch.tensor([len(samples)]))
            assert ids == collapse(model.ctc.argmax(out)[0], model.blank_id)


def test_blocks_are_recorded_for_the_distillation(kind, make_model, speech_batch):
    from espnet_prune.training.distill import record, run_teacher

    conf = kind.sizes | NO_DROPOUT
    model = make_model(encoder=f"prunable_{kind}", encoder_conf=conf).eval()
    with record(model) as seen:
        model(**speech_batch())
    teacher = run_teacher(model, seen, decoder=False)
    assert seen.hidden.keys() == teacher.hidden.keys() == {0, 1}
    for index, hidden in teacher.hidden.items():
        torch.testing.assert_close(seen.hidden[index], hidden, rtol=1e-4, atol=1e-5)
