"""Does this Python satisfy a requirements file? Exit 0 if so; needs no package.

With ``--shadowed``: is the ``espnet2`` that is imported the one that is installed?
"""

import re
import sys
from importlib import metadata
from pathlib import Path


def unmet(requirements: Path) -> list[str]:
    """List the pins (``name==version`` or ``name<version``) that do not hold here."""
    bad = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            bad += unmet(requirements.parent / line[2:].strip())
        elif line:
            name, operator, version = re.fullmatch(
                r"([\w.-]+)(==|<)(.+)", line
            ).groups()
            try:
                have = metadata.version(name)
            except metadata.PackageNotFoundError:
                have = None
            ok = have is not None and (
                # A local build tag, as in 2.11.0+cpu, is the same version.
                have.split("+")[0] == version
                if operator == "=="
                else int(have.split(".")[0]) < int(version.split(".")[0])
            )
            if not ok:
                bad.append(f"{line} (here: {have})")
    return bad


def shadowed() -> str | None:
    """Say which other version of ESPnet comes first, by ``PYTHONPATH`` perhaps."""
    import espnet2

    installed, found = metadata.version("espnet"), espnet2.__version__
    if found == installed:
        return None
    return (
        f"error: {espnet2.__file__} is of ESPnet {found}, and {installed} is installed "
        "-> take its folder out of PYTHONPATH"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--shadowed"]:
        sys.exit(shadowed())
    problems = unmet(Path(sys.argv[1]))
    if problems:
        print("\n".join(problems), file=sys.stderr)
    sys.exit(bool(problems))
