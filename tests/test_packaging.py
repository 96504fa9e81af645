"""What pip installs holds all that the package reads."""


def test_what_is_installed_holds_the_recipes_that_prune_takes(installed):
    for name in ("prune.yaml", "finetune.yaml", "ssl/prune.yaml", "ssl/distil.yaml"):
        assert (installed / "espnet_prune/config/recipes" / name).is_file()
    assert (installed / "espnet_prune/families/espnet/attention.py").is_file()
