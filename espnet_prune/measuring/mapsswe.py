"""The matched-pairs test of NIST's scoring toolkit (SCTK), where that is installed.

Gillick & Cox 1989; MAPSSWE compares the errors of two systems on segments between words
that both got right. SCTK is no Python package; Debian and Ubuntu call it ``sctk``.
"""

import logging
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

# A cell of sc_stats: the better system or ~, and the p value, 3 digits.
_CELL = re.compile(r"\|\s+(?:~|ours|theirs)\s+(<?)\s*([01]?\.\d+)")


def find(program: str) -> list[str] | None:
    """Say how to call a program of SCTK; None if it is not installed."""
    if shutil.which(program):
        return [program]
    return ["sctk", program] if shutil.which("sctk") else None


def mapsswe(ours: Path, theirs: Path) -> float | None:
    """Compute the two-sided p value of "no difference" between two systems.

    Args:
        ours, theirs: directories of scores, with ``ref.trn`` and ``hyp.trn``.

    Returns:
        the p value in steps of 0.001, the smallest being 0.001; None without SCTK, or
        if it finds nothing to compare.
    """
    sclite, sc_stats = find("sclite"), find("sc_stats")
    if sclite is None or sc_stats is None:
        return None
    alignments, text = b"", ""
    with tempfile.TemporaryDirectory() as folder:
        for name, system in (("ours", ours), ("theirs", theirs)):
            command = [*sclite, "-r", str(system.absolute() / "ref.trn"), "trn"]
            command += ["-h", str(system.absolute() / "hyp.trn"), "trn", name]
            command += ["-i", "rm", "-s", "-o", "sgml", "stdout"]
            alignments += subprocess.run(command, capture_output=True).stdout
        command = [*sc_stats, "-p", "-t", "mapsswe", "-u", "-n", "test"]
        subprocess.run(command, input=alignments, capture_output=True, cwd=folder)
        report = Path(folder, "test.stats.unified")
        if report.exists():
            text = report.read_text()
    cell = _CELL.search(text)
    if cell is None:
        logging.warning(f"sc_stats compared nothing of {ours} and {theirs}")
        return None
    return float(cell[2])
