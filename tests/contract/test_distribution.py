"""What is released: the source archive is whole and works where it is unpacked, the wheel has both licences."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_RELEASED = {".gitattributes"}
LICENCES = ("LICENSE", "probes/LICENSE")


def build(kind: str, source: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    built = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    place = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "--extract", "--gzip", f"--file={archive}", f"--directory={place}"], check=True)
    (folder,) = place.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel")))


def run(folder: Path, *command: str) -> str:
    ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def project_files() -> set[str]:
    """List the files under version control; in an unpacked archive all that are not ignored."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {str(path) for path in files if not ignored.intersection(path.parts)}


def test_the_archive_has_every_file_of_the_project(unpacked: Path) -> None:
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert project_files() - packed - NOT_RELEASED == set()
    assert not [
        name for name in packed if name.startswith((".venv", ".git/", "dist", "build")) or "__pycache__" in name
    ]


def test_what_make_and_the_image_need_is_in_the_archive(unpacked: Path) -> None:
    makefile, dockerfile = ((unpacked / name).read_text() for name in ("Makefile", "Dockerfile"))
    scripts = set(re.findall(r"\b((?:tools|tests)/[\w/]+\.(?:sh|py))", makefile))
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    assert {"tools/setup.sh", "tools/demo.py"} <= scripts
    assert {"pyproject.toml", "probes", "otel_connect", "requirements/run.txt"} <= copied
    assert [name for name in (*scripts, *copied) if not (unpacked / name).exists()] == []
    assert (unpacked / "tools/setup.sh").stat().st_mode & 0o111
    assert "make run" in run(unpacked, "make", "help")


def test_the_checks_and_tests_run_where_it_is_unpacked(unpacked: Path) -> None:
    tools = Path(sys.executable).parent
    run(unpacked, str(tools / "ruff"), "check", "-q", "otel_connect", "tests", "tools")
    run(unpacked, str(tools / "ruff"), "format", "--check", "-q", "otel_connect", "tests", "tools")
    probes = sorted(str(path) for path in (unpacked / "probes").glob("*.[ch]"))
    run(unpacked, str(tools / "clang-format"), "--dry-run", "-Werror", *probes)
    assert "passed" in run(unpacked, sys.executable, "-m", "pytest", "-q", "tests/unit/test_text.py")
    assert run(unpacked, sys.executable, "-m", "otel_connect", "version").startswith("otel-connect ")


def test_the_wheel_has_both_licences(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(wheel.read(metadata))
    assert said["License-Expression"] == "Apache-2.0 AND (MIT OR GPL-2.0-only)"
    assert sorted(said.get_all("License-File") or []) == sorted(LICENCES)
    for name in LICENCES:
        assert wheel.read(metadata.replace("METADATA", f"licenses/{name}")) == (ROOT / name).read_bytes()


def test_the_description_of_the_wheel_has_no_link_that_leads_nowhere(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(wheel.read(metadata))
    assert said["Description-Content-Type"] == "text/markdown"
    text = str(said.get_payload())
    assert text.startswith("# otel-connect\n")
    links = re.findall(r"\]\(([^)]+)\)|\bsrc=\"([^\"]+)", text)
    assert [link for link, image in links if not (link or image).startswith("https://")] == []


def test_the_wheel_has_the_probes_and_nothing_of_the_tests(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    probes = {path.relative_to(ROOT) for path in (ROOT / "probes").rglob("*") if path.suffix in {".c", ".h"}}
    assert {f"otel_connect/{path}" for path in probes} <= names
    assert not [name for name in names if not name.startswith(("otel_connect/", "otel_connect-"))]


def test_every_file_of_the_probes_has_the_licence_that_the_wheel_says() -> None:
    (expression,) = re.findall(r"SPDX-License-Identifier: (.+)", (ROOT / "probes/LICENSE").read_text())
    assert expression == "(MIT OR GPL-2.0-only)"
    sources = [*(ROOT / "probes").glob("*.[ch]")]
    assert sources
    assert [path.name for path in sources if f"SPDX-License-Identifier: {expression}" not in path.read_text()] == []
