"""To which of ESPnet's tasks a model belongs, told by its config alone."""

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.tasks import ASR, S2T, TASKS, task_of
from espnet_prune.serving.decoders import check_symbols, decoder_for, read_search


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_config_that_espnet_writes_tells_its_task(task):
    command = ["--token_list", "tokens.txt", "--token_type", "char"]
    config = vars(task.training.get_parser().parse_args(command))
    assert task_of(config) is task
    parser = task.inference.get_parser()
    known = {action.dest for action in parser._actions}
    assert {task.config_option, task.weights_option} <= known


def test_model_is_built_by_its_own_task(dense, owsm):
    for folder, task in ((dense, ASR), (owsm, S2T)):
        config = read_yaml(folder / "config.yaml")
        model, _ = load_model(folder / "config.yaml", folder / "model.pth")
        assert task_of(config) is task
        assert type(model) is type(
            task.training.build_model_from_file(folder / "config.yaml", None, "cpu")[0]
        )


def test_decoders_of_the_project_are_for_asr():
    assert decoder_for({"beam_size": 2}, S2T) is S2T.inference.Speech2Text
    for options in ({"ctc_greedy": True}, {"ctc_beam": None}):
        assert decoder_for(options, ASR) is not ASR.inference.Speech2Text
        (name,) = options
        with pytest.raises(InputError, match=f"^{name}: .* task s2t cannot be used so"):
            decoder_for(options, S2T)


def test_search_takes_the_options_of_its_task(tmp_path):
    source = tmp_path / "decode.yaml"
    source.write_text("lang_sym: eng\ntask_sym: <st_deu>\nbeam_size: 3\n")
    with pytest.raises(InputError, match="no option 'lang_sym' of ESPnet's search"):
        read_search(source)
    options = read_search(source, S2T)
    assert (options["lang_sym"], options["task_sym"]) == ("<eng>", "<st_deu>")
    check_symbols(options, ["<eng>", "<st_deu>"], source)
    with pytest.raises(InputError, match="task_sym: the model has no token '<st_deu>'"):
        check_symbols(options, ["<eng>", "<asr>"], source)
