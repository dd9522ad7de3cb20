"""What is installed: few packages, our name only, the same files from a wheel and from an sdist."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import trialgym

ROOT = Path(__file__).parents[1]
ROOMS = ("agents", "algorithms", "benchmarks", "envs")


# What the core needs.


def needs(name: str, extras: frozenset[str]) -> list[Requirement]:
    """Requirements of an installed distribution that count on this machine."""
    rows = [Requirement(row) for row in distribution(name).requires or ()]
    wanted = [{"extra": extra} for extra in (extras or frozenset({""}))]
    return [row for row in rows if row.marker is None or any(map(row.marker.evaluate, wanted))]


def resolved(name: str, *extras: str) -> set[str]:
    """Every distribution that an installation brings, besides the one asked for."""
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(canonicalize_name(name), frozenset(extras))]
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            queue += [(canonicalize_name(r.name), frozenset(r.extras)) for r in needs(*node)]
    return {found for found, _ in seen} - {canonicalize_name(name)}


def test_the_core_stays_under_twenty_packages() -> None:
    packages = resolved("trialgym")
    assert len(packages) < 20, sorted(packages)
    assert {"gymnasium", "sqlalchemy", "numpy", "jsonargparse", "rich"} <= packages
    assert not packages & {"torch", "transformers", "datasets", "pyarrow", "pandas"}


def test_extras_bring_what_they_promise() -> None:
    assert {"torch", "transformers", "trl", "peft", "accelerate"} <= resolved("trialgym", "train")
    assert "pyarrow" in resolved("trialgym", "parquet")
    assert {"psycopg", "psycopg-binary"} <= resolved("trialgym", "postgres")


def test_every_package_that_is_installed_for_us_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name) for name in pins}
    assert len(pinned) == len(pins)
    wanted = resolved("trialgym", "train", "parquet", "postgres")
    # Packages of CUDA come with a torch that is not the CPU-only build; see constraints.txt.
    cuda = {name for name in wanted if re.match(r"nvidia-|cuda-|triton", name)}
    assert wanted - cuda - pinned == set()
    assert {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "setuptools", "pip"} <= pinned
    assert all(re.fullmatch(r"[0-9][0-9.]*", version) for version in pins.values())


def test_the_version_is_said_once() -> None:
    assert distribution("trialgym").version == trialgym.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(trialgym.__version__)})\]", changes, re.M)


# What is built. A copy of the repository is built, since a build leaves files beside the source.


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="building needs setuptools")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so what belongs to the source is not known")
    copy = tmp_path_factory.mktemp("source")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def call(directory: Path, *command: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build(directory: Path, out: Path) -> Path:
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    call(directory, "-m", "pip", "wheel", *options.split(), "--wheel-dir", str(out), ".")
    (wheel,) = out.glob("trialgym-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    options = "--quiet --no-deps --no-index --no-compile --disable-pip-version-check"
    call(target, "-m", "pip", "install", *options.split(), "--target", str(target), str(wheel))
    return target


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_installs_our_name_only(site: Path) -> None:
    folders = {path.name for path in site.iterdir() if path.suffix != ".dist-info"} - {"bin"}
    assert folders == {"trialgym"}


def test_a_wheel_has_every_file_of_the_hall_and_the_rooms(source: Path, wheel: Path) -> None:
    expected = {f"trialgym/{path.name}" for path in (source / "trialgym").glob("*.py")}
    for room in ROOMS:
        expected |= {
            f"trialgym/{path.relative_to(source).as_posix()}"
            for path in (source / room).rglob("*.py")
        }
    assert names(wheel) == expected | {"trialgym/py.typed"} | package_data(source)


def package_data(source: Path) -> set[str]:
    found = [
        path.relative_to(source)
        for room in ROOMS
        for ending in ("json", "yaml")
        for path in (source / room).rglob(f"*.{ending}")
    ]
    return {f"trialgym/{path.as_posix()}" for path in found}


def test_a_wheel_says_licence_readme_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parse(io.TextIOWrapper(archive.open(info), encoding="utf-8"))
        entries = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
        licences = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licences
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "trialgym = trialgym.cli:main" in entries


SMOKE = """
import importlib.util, sys
from pathlib import Path
import trialgym
site = Path(sys.argv[1])
assert Path(trialgym.__file__).is_relative_to(site), trialgym.__file__
for name in ("agents", "algorithms", "benchmarks", "envs"):
    spec = importlib.util.find_spec("trialgym." + name)
    assert Path(spec.origin).is_relative_to(site), spec.origin
from trialgym.registry import ENVS
for name in ENVS:
    env = trialgym.make(name)
    observation, info = env.reset(seed=0)
    over = False
    while not over:
        observation, reward, done, truncated, info = env.step(env.expert())
        over = done or truncated
    env.close()
    print(name, info["score"], info["success"])
"""


def test_an_installed_wheel_works_away_from_the_checkout(site: Path, tmp_path: Path) -> None:
    script = tmp_path / "smoke.py"
    script.write_text(SMOKE, encoding="utf-8")
    # PYTHONPATH comes before the finder of an editable installation, so the wheel's files win.
    seen = call(tmp_path, str(script), str(site), PYTHONPATH=str(site)).splitlines()
    assert seen == [f"{name} 1.0 True" for name in trialgym.registry.ENVS]


def test_nothing_of_ours_answers_to_the_rooms_plain_names(site: Path, tmp_path: Path) -> None:
    """Away from the checkout, `import agents` is not ours: another package owns that name."""
    script = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert call(tmp_path, "-c", script, *ROOMS, PYTHONPATH=str(site)) == "[]\n"


SDIST = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"


def test_an_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    call(source, "-W", "ignore", "-c", SDIST, str(tmp_path))
    (archive,) = tmp_path.glob("trialgym-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    rebuilt = build(unpacked, tmp_path / "wheel")
    assert names(rebuilt) == names(wheel)
    with zipfile.ZipFile(rebuilt) as ours, zipfile.ZipFile(wheel) as theirs:
        assert [n for n in sorted(names(wheel)) if ours.read(n) != theirs.read(n)] == []
