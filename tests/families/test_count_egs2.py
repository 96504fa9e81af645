"""How much of ESPnet's own recipes can be pruned, and that it never becomes less."""

import json

import pytest

from tests.families.count_egs2 import count, main, read_facts

# All configs, those whose encoder can be pruned, and those whose decoder can be, too.
# Whoever supports more raises them.
FLOORS = {
    "conformer": (146, 135, 128),
    "transformer": (122, 115, 104),
    "e_branchformer": (55, 53, 50),
    "branchformer": (10, 3, 3),
    "contextual_block_conformer": (2, 2, 2),
    "contextual_block_transformer": (6, 6, 6),
}


@pytest.mark.parametrize("name", FLOORS)
def test_no_fewer_configs_of_espnet_can_be_pruned(name):
    configs, encoders, decoders = FLOORS[name]
    alone, both = count()[name], count(decoder=True)[name]
    assert alone.total() == both.total() == configs
    assert alone[""] >= encoders
    assert both[""] >= decoders


def test_the_table_has_the_numbers_and_the_reasons(capsys):
    main()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for name, reasons in count(decoder=True).items():
        numbers = f"{reasons.total():7}{count()[name]['']:8}{reasons['']:18}"
        assert [name, numbers.strip()] in lines
        assert all([str(n), why] in lines for why, n in reasons.items() if why)


def test_facts_are_read_of_training_configs_alone(tmp_path):
    """Configs that differ in no option that matters are one set."""
    folder = tmp_path / "egs2/an4/asr1/conf"
    folder.mkdir(parents=True)
    (folder / "decode.yaml").write_text("beam_size: 10\n")
    text = "encoder: conformer\nencoder_conf: {num_blocks: %d, macaron_style: true}\n"
    for blocks in (6, 12):
        (folder / f"train_e{blocks:02}.yaml").write_text(text % blocks)
    (folder / "train.yaml").symlink_to("train_e06.yaml")
    ((facts, paths),) = read_facts(tmp_path).items()
    assert paths == [f"an4/asr1/conf/train_{blocks}.yaml" for blocks in ("e06", "e12")]
    assert json.loads(facts) == {
        "encoder": "conformer",
        "encoder_conf": {"macaron_style": True},
    }
