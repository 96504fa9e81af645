"""Does this Python satisfy a requirements file? Exit 0 if so; needs no package."""

import re
import sys
from importlib import metadata
from pathlib import Path

PIN = re.compile(
    r"(?P<name>[\w.-]+)(?P<operator>==|<)(?P<version>[^;\s]+)"
    r'(\s*;\s*python_version\s*(?P<when>>=|<)\s*"(?P<major>\d+)\.(?P<minor>\d+)")?'
)


def unmet(requirements: Path) -> list[str]:
    """List the pins that do not hold here.

    They are ``name==version`` or ``name<version``, for all Pythons or, after ``;``, for
    those of ``python_version >= "X.Y"`` or ``python_version < "X.Y"``.
    """
    bad = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            bad += unmet(requirements.parent / line[2:].strip())
        elif line:
            pin = PIN.fullmatch(line)
            if pin["when"] and not _is_for_this_python(pin):
                continue
            version = pin["version"]
            try:
                have = metadata.version(pin["name"])
            except metadata.PackageNotFoundError:
                have = None
            ok = have is not None and (
                # A local build tag, as in 2.11.0+cpu, is the same version.
                have.split("+")[0] == version
                if pin["operator"] == "=="
                else int(have.split(".")[0]) < int(version.split(".")[0])
            )
            if not ok:
                bad.append(f"{line} (here: {have})")
    return bad


def _is_for_this_python(pin: re.Match[str]) -> bool:
    newer = sys.version_info[:2] >= (int(pin["major"]), int(pin["minor"]))
    return newer == (pin["when"] == ">=")


if __name__ == "__main__":
    problems = unmet(Path(sys.argv[1]))
    if problems:
        print("\n".join(problems), file=sys.stderr)
    sys.exit(bool(problems))
