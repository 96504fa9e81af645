"""The steps from a dense model to a small one, rung by rung."""

from pathlib import Path

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.cli.ladder import FAMILIES, Ladder
from espnet_prune.config.rungs import make_rungs


@pytest.fixture
def climb(tmp_path):
    """``climb(method, stages, family)``: its steps as (module, options, directory)."""
    (tmp_path / "finetune.yaml").write_text("seed: 7\n")

    def run(method, stages=None, family="espnet", made=True, soup=1, given=()):
        done = []
        kind = FAMILIES[family]

        def do(module, options, folder):
            done.append((module, options, folder))
            for path in (folder / "config.yaml", folder / "latest.pth") if made else ():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

        def do_all(module, options, folder):
            if folder is not None:
                do(module, options, folder)
                return
            done.append((module, options, None))
            if module != kind.export:
                return
            out = Path(options[options.index("--out") + 1])
            for name in kind.weights if made else ():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).touch()

        Ladder(
            kind,
            make_rungs([method], [0.5, 0.75], "params"),
            lambda rung: tmp_path / f"pruned_{rung.pruned}",
            lambda rung: tmp_path / f"compact_{rung.compact}",
            ["--common", "data"],
            ["--recipe", "prune.yaml"],
            ["--recipe", str(tmp_path / "finetune.yaml"), *given],
            soup=soup,
        ).climb(do_all, stages)
        return done

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_each_rung_is_pruned_exported_and_finetuned_before_the_next(climb, family):
    train, export = FAMILIES[family].train, FAMILIES[family].export
    done = climb("random", family=family)
    assert [module for module, *_ in done] == [train, export, train] * 2
    for _, options, folder in done:
        assert folder is None or options[-4:-2] == ["--common", "data"]


@pytest.mark.parametrize(
    ("given", "first"), [((), 7), (("--seed", "2", "--lr", "1", "--seed=40"), 40)]
)
def test_each_fine_tuning_of_a_soup_has_a_seed_and_a_directory(climb, given, first):
    climb("l0", [12, 13])
    alone = climb("l0", [14], given=given)
    steps = climb("l0", [14], soup=3, given=given)
    for one, of_rung in zip(alone, (steps[:4], steps[4:]), strict=True):
        *runs, (module, options, folder) = of_rung
        names = ["finetune", "finetune_2", "finetune_3"]
        assert [run.name for *_, run in runs] == names
        for n, (train, told, _) in enumerate(runs):
            seed = ["--seed", str(first + n), "--ingredient"]
            assert (train, told) == (one[0], [*one[1], *seed])
        assert (module, folder) == ("espnet_prune.cli.soup", None)
        compact = one[2].parent
        given_runs = ["--runs", *(str(compact / name) for name in names)]
        assert options == ["--compact", str(compact), *given_runs]


@pytest.mark.parametrize(
    ("method", "goes_on"),
    [
        ("l0", True),
        ("l0_alone", True),
        ("iterative", True),
        ("feedback", True),
        ("magnitude", False),
    ],
)
def test_later_rungs_go_on_from_the_gates_of_the_one_before(climb, method, goes_on):
    first, second = climb(method, [12])
    assert "--previous" not in first[1]
    previous = ["--previous", str(first[2])]
    assert (previous == second[1][6:8]) == goes_on


def test_sizes_of_one_checkpoint_are_trained_once_after_all_are_exported(climb):
    done = climb("slimmable")
    train, export = FAMILIES["espnet"].train, FAMILIES["espnet"].export
    assert [module for module, *_ in done] == [train, export, train, export, train]
    exports = [options for module, options, _ in done if module == export]
    assert all(o[o.index("--method") + 1] == "slimmable" for o in exports)
    compacts = [o[o.index("--out") + 1] for o in exports]
    _, options, folder = done[-1]
    assert options[:3] == ["--sizes", *compacts]
    assert folder.parent.name == "compact_slimmable_params0_50_75"
    pruning = [options for _, options, _ in done if "--target" in options]
    assert all(o[o.index("--method") + 1] == "l0" for o in pruning)


@pytest.mark.parametrize(("stage", "made_by"), [(13, 12), (14, 13)])
def test_a_step_without_its_input_names_the_stage_that_makes_it(climb, stage, made_by):
    with pytest.raises(InputError, match=f"is missing -> run stage {made_by} "):
        climb("l0", [stage], made=False)
