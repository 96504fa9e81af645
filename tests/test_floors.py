"""The house stands: imports run downward only and in no circle, rooms and files are
small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "espnet_prune"
# From the top floor to the ground.
ROOMS = (
    "cli", "report", "bench", "export", "training", "measuring", "serving", "families",
    "pruning", "running", "data", "config", "base",
)  # fmt: skip
# What the package imports when it is imported itself, or asked for by name.
REGISTRATION = "espnet_prune.training.registration"
DOORS = {
    REGISTRATION, "espnet_prune.serving.load", "espnet_prune.cli.prune",
    "espnet_prune.cli.prune_speech", "espnet_prune.serving.sizes",
}  # fmt: skip
LONGEST = 300
LONGER = {"families/ssl/pruned_speech.py": "it travels with each model, as one file"}
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str, at_once: bool = False) -> Iterator[str]:
    """Full names of what a module imports, or of what its own import needs at once."""
    nodes = [ast.parse(SOURCES[module].read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES else str(node.module)
        elif not at_once or not isinstance(node, ast.FunctionDef):
            nodes += ast.iter_child_nodes(node)


def modules(room: str) -> list[str]:
    return [name for name in SOURCES if name.startswith(f"espnet_prune.{room}.")]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downward_only(room):
    above = {f"espnet_prune.{other}" for other in ROOMS[: ROOMS.index(room)]}
    upward = [
        f"{module} imports {name}"
        for module in modules(room)
        for name in imports(module)
        if ".".join(name.split(".")[:2]) in above
    ]
    assert not upward


def test_the_package_itself_imports_its_doors_alone():
    ours = {name for name in imports("espnet_prune") if name.startswith("espnet_")}
    assert ours == DOORS


def test_no_import_runs_in_a_circle():
    """So every module may be the first that is imported."""
    needed = {module: set(imports(module, at_once=True)) for module in SOURCES}
    # ESPnet's tasks are told of ours as soon as they are imported.
    needed["espnet2"] = {n for n in imports(REGISTRATION) if n in SOURCES}
    for names in needed.values():
        if any(name.startswith(("espnet2.tasks", "espnet2.bin")) for name in names):
            names.add("espnet2")
    TopologicalSorter(needed).prepare()


def test_the_core_needs_torch_and_no_model():
    for module in modules("config"):
        assert "torch" not in {name.split(".")[0] for name in imports(module)}, module
    for module in modules("pruning"):
        names = list(imports(module))
        ours = {n.split(".")[1] for n in names if n.startswith("espnet_prune.")}
        assert ours <= {"pruning", "config", "base"}, module
        others = {n.split(".")[0] for n in names} - {"espnet_prune", "torch"}
        assert others <= sys.stdlib_module_names, module
    told = (
        f"import sys, {', '.join(modules('config'))}; assert 'torch' not in sys.modules"
    )
    told += f"; import {', '.join(modules('pruning'))}; assert not any("
    told += "name.partition('.')[0] in ('espnet', 'espnet2') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", told], cwd=ROOT, check=True)


def test_the_entrance_is_tidy():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert entries == {*ROOMS, "__init__.py", "__main__.py"}
    assert len(entries) <= 15


def test_files_are_short_but_for_a_few_with_reasons():
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text().splitlines())
        for path in SOURCES.values()
    }
    assert {name for name, n in lengths.items() if n > LONGEST} == LONGER.keys()
