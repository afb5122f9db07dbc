"""Writes what the image installs, with its hashes, into requirements.txt beside it: ``make lock``.

The versions are those of constraints.txt, and the hashes those of all files of each release, so
the image may be built for any processor. Torch stands apart: its smaller CPU build comes from an
index of its own and is another file of the same version. What torch needs is there, but not what
only its build with CUDA does.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docker" / "requirements.txt"
APART = "torch"
HEADER = "# What the image installs before torch, with hashes; `make lock` writes it.\n"


def wanted() -> list[str]:
    """Return what the image needs beside torch, directly and for it."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    ours = [*about["build-system"]["requires"], *about["project"]["dependencies"]]
    pinned = {canonicalize_name(line.partition("==")[0]) for line in constraints()}
    for_torch = [
        line
        for line in requires(APART) or ()
        if canonicalize_name((one := Requirement(line)).name) in pinned
        and "extra" not in str(one.marker)
    ]
    return [line for line in (*ours, *for_torch) if Requirement(line).name != APART]


def constraints() -> list[str]:
    """Return the lines of constraints.txt that pin a version."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if "==" in line]


def lock() -> str:
    """Ask the package index for the hashes."""
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "-", "--quiet"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--constraint", "constraints.txt"]
    done = subprocess.run(  # noqa: S603
        command, input="\n".join(wanted()), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return HEADER + done.stdout


if __name__ == "__main__":
    PATH.write_text(lock(), "utf-8")
