"""What the CI of one interpreter does not see: the others, the oldest and the newest dependencies, and the package itself.

nox                     all of it, on each interpreter that is there
nox -s tests-3.13       the tests on one
nox -s oldest           with the oldest dependencies that pyproject.toml allows
nox -s newest           with pre-releases; a failure here is news, and blocks nothing
nox -s package          wheel and sdist, each installed alone in an empty environment, where a session is resolved
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="uv", python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The whole suite with the lower bounds of what we name ourselves."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="uv", python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """The whole suite with pre-releases."""
    session.install("--prerelease", "allow", "--upgrade", "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="virtualenv")
def package(session: nox.Session) -> None:
    """Builds both, checks what PyPI would, installs each alone and uses it outside of the checkout."""
    session.install("build", "twine")
    dist = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    built = sorted(dist.iterdir())
    session.run("twine", "check", "--strict", *map(str, built))
    for file in built:
        empty = Path(session.create_tmp()).resolve() / f"empty-{file.suffix.lstrip('.')}"
        session.run("python", "-m", "venv", "--clear", str(empty))
        with session.chdir(empty):
            session.run(str(empty / "bin/pip"), "install", "-q", str(file), external=True)
            told = session.run(str(empty / "bin/macp-rx"), "demo", "--pace", "0", external=True, silent=True)
        if not re.search("RESOLVED", str(told)):
            session.error(f"{file.name}: the demo resolved no session:\n{told}")
