"""Which checkpoint training goes on from, whatever a kill or a disk did to the newest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trialgym.algorithms.language_checkpoints import MANIFEST, newest_whole, prune, seal
from trialgym.errors import RunConflict


def write(directory: Path, step: int, run: str | None) -> Path:
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes([step]) * 100)
    if run is not None:
        seal(checkpoint, run)
    return checkpoint


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / MANIFEST).unlink(),
        lambda path: (path / MANIFEST).write_text("{"),
        lambda path: (path / MANIFEST).write_text("[]"),
        lambda path: (path / "weights").unlink(),
        lambda path: (path / "weights").write_bytes(b"short"),
        lambda path: (path / "weights").write_bytes(b"x" * 100),
    ],
    ids=["no manifest", "torn manifest", "other manifest", "no file", "short file", "other bytes"],
)
def test_the_newest_whole_checkpoint_is_found_and_what_is_not_whole_is_removed(
    spoil: Callable[[Path], Any], tmp_path: Path
) -> None:
    assert newest_whole(tmp_path / "none", "run") is None
    old, new = write(tmp_path, 9, "run"), write(tmp_path, 10, "run")
    assert newest_whole(tmp_path, "run") == new
    spoil(new)
    assert newest_whole(tmp_path, "run") == old
    assert not new.exists()


def test_a_checkpoint_without_its_end_is_not_taken_for_whole(tmp_path: Path) -> None:
    assert newest_whole(write(tmp_path, 1, None).parent, "run") is None


def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    other = write(tmp_path, 1, "other")
    with pytest.raises(RunConflict, match="other data, settings or weights"):
        newest_whole(tmp_path, "run")
    assert other.exists()


def test_the_newest_two_checkpoints_are_kept_by_number_and_not_by_name(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        write(tmp_path, step, "run")
    (tmp_path / "checkpoint-final").mkdir()
    prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-10",
        "checkpoint-100",
        "checkpoint-final",
    }
