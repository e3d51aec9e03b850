"""A user's type checker sees macp_rx, and the stubs for macp-proto, in an editable install as in a wheel."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent

Line = tuple[str, int]
Checker = Callable[[Path, Path], dict[Line, str]]


def run(module: str, *arguments: str | Path) -> None:
    """Runs a tool of this environment on the project."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


def report(checker: str, *options: str, python: Path, cwd: Path) -> str:
    """What a type checker prints which finds ``python`` on the PATH: pyright --verifytypes ignores --pythonpath."""
    environ = {**os.environ, "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", checker, *options]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr or done.stdout  # 1: it has found errors
    return done.stdout


def mypy(python: Path, code: Path) -> dict[Line, str]:
    options = ["--strict", "--output=json", f"--python-executable={python}", "."]
    errors = map(json.loads, report("mypy", *options, python=python, cwd=code).splitlines())
    # it tells beside them, as a note, where what they are about stands
    return {(error["file"], error["line"]): error["message"] for error in errors if error["severity"] == "error"}


def pyright(python: Path, code: Path) -> dict[Line, str]:
    errors = json.loads(report("pyright", "--outputjson", ".", python=python, cwd=code))["generalDiagnostics"]
    return {(Path(error["file"]).name, error["range"]["start"]["line"] + 1): error["message"] for error in errors}


both_checkers = pytest.mark.parametrize("check", [mypy, pyright])


def assert_errors_are_the_marked_lines(errors: dict[Line, str], code: Path) -> None:
    """The marked lines say, in a comment, why they are an error."""
    marked = {
        (file.name, number)
        for file in code.glob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if "  # error: " in line
    }
    unexpected = {line: message for line, message in errors.items() if line not in marked}
    assert (unexpected, marked - errors.keys()) == ({}, set())


def packages(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))


def new_environment(path: Path) -> Path:
    """A virtual environment with what is installed in this one, except macp_rx itself; returns its interpreter."""
    venv.create(path, symlinks=True)
    for entry in packages(Path(sys.prefix)).iterdir():
        # a .pth is how an editable install of macp_rx, under whatever name, would come in
        if entry.suffix != ".pth" and not entry.name.startswith(("macp_rx", "macp-stubs")):
            (packages(path) / entry.name).symlink_to(entry)
    return path / "bin/python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run("hatchling", "build", "--target", "wheel", "--directory", directory)
    (path,) = directory.glob("*.whl")
    return path


class Installed(NamedTuple):
    python: Path
    package: Path


@pytest.fixture(scope="module", params=["editable", "wheel"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The interpreter of a new environment with the project installed, and where the package is then."""
    environment = tmp_path_factory.mktemp(request.param)
    python = new_environment(environment)
    what, where = (["--editable", ROOT], ROOT) if request.param == "editable" else ([wheel], packages(environment))
    # its dependencies and the build backend are there, so that nothing is downloaded
    run("pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation", *what)
    return Installed(python, where / "macp_rx")


@pytest.fixture
def users_code(tmp_path: Path) -> Path:
    """Outside of the project, so that a checker takes neither its settings nor its modules from there."""
    return shutil.copytree(ROOT / "tests/typing", tmp_path / "code")


@both_checkers
def test_errors_fall_on_the_marked_lines_and_nowhere_else(
    check: Checker, installed: Installed, users_code: Path
) -> None:
    assert_errors_are_the_marked_lines(check(installed.python, users_code), users_code)


@both_checkers
def test_the_checkers_see_nothing_but_what_is_installed(check: Checker, tmp_path: Path) -> None:
    (code := tmp_path / "code").mkdir()
    (code / "imports.py").write_text(
        "# pyright: strict\n"
        "import macp_rx as macp_rx  # error: it is not installed\n"
        "from macp.v1 import envelope_pb2 as envelope_pb2  # error: it has no types\n"
    )
    assert_errors_are_the_marked_lines(check(new_environment(tmp_path / "bare"), code), code)


def test_every_public_symbol_has_a_known_type(installed: Installed, tmp_path: Path) -> None:
    options = ["--verifytypes", "macp_rx", "--ignoreexternal", "--outputjson"]
    types = json.loads(report("pyright", *options, python=installed.python, cwd=tmp_path))["typeCompleteness"]
    assert Path(types["packageRootDirectory"]) == installed.package
    partial = [symbol for symbol in types["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert {symbol["name"]: [said["message"] for said in symbol["diagnostics"]] for symbol in partial} == {}
    assert types["completenessScore"] == 1


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_the_wheel_has_the_package_and_the_stubs(wheel: Path) -> None:
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {f"{top}/{name}" for top in ("macp_rx", "macp-stubs") for name in contents(ROOT / top)}
    assert {"macp_rx/py.typed", "macp-stubs/py.typed"} <= packed


def test_the_stubs_say_what_a_fresh_generation_says(tmp_path: Path) -> None:
    fresh = tmp_path / "macp-stubs"
    subprocess.run([sys.executable, ROOT / "scripts/generate-stubs", fresh], check=True)
    written, kept = interface(fresh), interface(ROOT / "macp-stubs")
    assert [name for name in sorted(written.keys() | kept.keys()) if written.get(name) != kept.get(name)] == []


def interface(stubs: Path) -> dict[str, list[str]]:
    """What each stub declares: names, parameters, docstrings. Not its bytes: every generator version writes others."""
    return {path.relative_to(stubs).as_posix(): declared(ast.parse(path.read_text())) for path in stubs.rglob("*.pyi")}


def declared(node: ast.AST, within: str = "") -> list[str]:
    found: list[str] = []
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef(name=name):
                found += [f"{within}{name}: {ast.get_docstring(child)}", *declared(child, f"{within}{name}.")]
            case ast.FunctionDef(name=name, args=args):
                found.append(f"{within}{name}({', '.join(arg.arg for arg in (*args.args, *args.kwonlyargs))})")
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.append(f"{within}{name}")
            case _:
                pass
    return sorted(found)
