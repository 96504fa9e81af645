"""What a training's config leaves to us."""

import pytest

from espnet_prune.training.task import DenseASRTask, PruneASRTask


@pytest.mark.parametrize(
    ("config", "options", "lengths"),
    [
        ("", "", [80000, 150]),  # ESPnet's default is folded
        ('batch_type: "folded"', "", [80000, 150]),
        ("batch_type:  folded # as in an4", "", [80000, 150]),
        ("batch_type: numel", "--batch_type=folded", [80000, 150]),
        ("batch_type: numel", "--valid_batch_type folded", [80000, 150]),
        ("batch_type: folded", "--batch_type numel", []),
        ("fold_length: [1, 2]", "", [1, 2]),
        ("", "--fold_length 1 --fold_length 2", [1, 2]),
    ],
)
def test_folded_batches_get_a_length_for_each_shape_file(
    tmp_path, config, options, lengths
):
    path = tmp_path / "train.yaml"
    path.write_text(f"max_epoch: 1\n{config}\n")
    shapes = "--train_shape_file speech_shape --train_shape_file text_shape"
    command = ["--config", str(path), *shapes.split(), *options.split()]
    args = DenseASRTask.get_parser().parse_args(command)
    DenseASRTask.complete(args)
    assert args.fold_length == lengths


def test_folded_batches_of_a_student_get_the_length_of_its_audio():
    command = ["--train_shape_file", "utt2num_samples"]
    args = PruneASRTask.get_parser().parse_args(command)
    PruneASRTask.complete(args)
    assert args.fold_length == [80000]
