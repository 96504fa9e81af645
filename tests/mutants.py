#!/usr/bin/env python3
"""Does the quick suite notice when the core is wrong? Change it at random, and see.

    python3 tests/mutants.py --number 20 --seed 1
    python3 tests/mutants.py --number 20 --seed 1 --list

Each mutant is one change of one expression in a copy of the commit: a comparison, an
arithmetic operator, an ``and``, a ``not`` or a number. The tests of its own directory
run first, then all quick ones, until one fails. What survives is printed as a diff: a
test is missing there, or the change makes no difference.
"""

import argparse
import ast
import contextlib
import difflib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 1800  # seconds for the quick tests, on whatever machine
CORE = ("pruning", "families", "training", "export", "measuring")
SWAPS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=",
    ast.NotEq: "==", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
    ast.FloorDiv: "*", ast.And: "or", ast.Or: "and",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        path: of the file in the checkout.
        text: the file with the change.
    """

    path: Path
    text: str

    def diff(self) -> str:
        old = (ROOT / self.path).read_text().splitlines()
        new, name = self.text.splitlines(), str(self.path)
        return "\n".join(difflib.unified_diff(old, new, name, name, n=0, lineterm=""))


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield all mutants of a file, without those of its docstrings and annotations."""
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = text.encode()

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    def changed(first: int, last: int, new: str) -> Mutant:
        return Mutant(path, (data[:first] + new.encode() + data[last:]).decode())

    for node in ast.walk(ast.parse(text)):
        pairs: list[tuple[ast.AST, ast.AST, ast.AST]] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            two_by_two = itertools.pairwise(sides)
            pairs = [(*two, o) for two, o in zip(two_by_two, node.ops, strict=True)]
        elif isinstance(node, ast.BinOp):
            pairs = [(node.left, node.right, node.op)]
        elif isinstance(node, ast.BoolOp):
            pairs = [(*two, node.op) for two in itertools.pairwise(node.values)]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            first = at(node.lineno, node.col_offset)
            yield changed(first, first + len("not "), "")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            first = at(node.lineno, node.col_offset)
            last = at(node.end_lineno, node.end_col_offset)
            yield changed(first, last, repr(node.value + 1))
        for left, right, op in pairs:
            if type(op) not in SWAPS:
                continue
            first = at(left.end_lineno, left.end_col_offset)
            last = at(right.lineno, right.col_offset)
            between = data[first:last].decode()
            symbol = between.strip(" ()\n")
            if symbol and between.count(symbol) == 1 and "#" not in between:
                yield changed(first, last, between.replace(symbol, SWAPS[type(op)]))


def caught(mutant: Mutant, copy: Path) -> bool:
    """Tell whether a quick test fails on the mutant.

    Args:
        mutant: the change.
        copy: of the checkout, as it is committed.
    """
    file = copy / mutant.path
    original = file.read_text(encoding="utf-8")
    file.write_text(mutant.text, encoding="utf-8")
    try:
        own = mutant.path.parts[1]
        return any(fails(tests, copy) for tests in (f"tests/{own}", "tests"))
    finally:
        file.write_text(original, encoding="utf-8")


def fails(tests: str, copy: Path) -> bool:
    """Tell whether a quick test fails, or never ends, as a changed loop may."""
    call = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", tests]
    call += ["-m", "not slow", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        call, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(LONGEST) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="show them, and test none")
    args = parser.parse_args()
    files = [
        path.relative_to(ROOT)
        for part in CORE
        for path in sorted((ROOT / "espnet_prune" / part).rglob("*.py"))
    ]
    everything = [mutant for path in files for mutant in mutants(path)]
    drawn = random.Random(args.seed).sample(everything, args.number)
    if args.list:
        print("\n".join(mutant.diff() for mutant in drawn))
        return
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
        if fails("tests", Path(folder)):
            sys.exit("a quick test fails without any change: mend it first")
        for number, mutant in enumerate(drawn, 1):
            found = caught(mutant, Path(folder))
            survived += not found
            said = "caught" if found else "SURVIVED"
            print(f"{number}/{len(drawn)} {mutant.path}: {said}")
            if not found:
                print(mutant.diff(), flush=True)
    print(f"caught {len(drawn) - survived} of {len(drawn)}")


if __name__ == "__main__":
    main()
