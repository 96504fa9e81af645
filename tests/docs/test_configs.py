"""Configs in the documentation: the option classes and ESPnet's parser take them."""

import dataclasses
import re

import pytest
import yaml
from pages import PAGES, ROOT, SECTIONS, blocks

from espnet_prune.options import make_options
from espnet_prune.student import OWN_KEYS
from espnet_prune.task import PruneASRTask, optimizer_options

CONFIGS = [(page, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "text"), CONFIGS, ids=[page.name for page, _ in CONFIGS]
)
def test_each_config_is_taken(page, text, tmp_path):
    config = yaml.safe_load(text)
    assert isinstance(config, dict), text
    for section, kind in SECTIONS.items():
        make_options(kind, section, config.get(section))
    if "optim_conf" in config:
        optimizer_options(config["optim_conf"])
    of_espnet = {k: v for k, v in config.items() if k not in OWN_KEYS}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(of_espnet))
    PruneASRTask.get_parser().parse_args(["--config", str(tmp_path / "train.yaml")])


@pytest.mark.parametrize("section", SECTIONS)
def test_table_of_a_section_has_all_its_options_and_their_defaults(section):
    page = (ROOT / "docs/configs.md").read_text()
    (part,) = re.findall(rf"^## `{section}`.*?(?=^## )", page, re.S | re.M)
    told = {}
    for names, defaults in re.findall(r"^\| (`.*?) \| (.*?) \|", part, re.M):
        values = [d.strip("`").replace("none", "null") for d in defaults.split(", ")]
        for name, value in zip(names.split(", "), values, strict=True):
            told[name.strip("`")] = yaml.safe_load(value)
    assert told == dataclasses.asdict(SECTIONS[section]())
