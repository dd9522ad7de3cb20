"""Checkpoints that a kill cannot spoil: a manifest is written last, and only what it tells counts.

The trainers under us write a checkpoint file by file, and resume from the highest number without a
look at what is in it. Here a checkpoint is whole only when its manifest, with the size and hash of
every file, stands beside the files and agrees with them.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

from trialgym.errors import RunConflict

MANIFEST = "COMPLETE.json"
logger = logging.getLogger(__name__)


def seal(checkpoint: Path, run: str) -> None:
    """Declare a checkpoint whole; `run` says what training it belongs to."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    manifest = {
        "run": run,
        "files": {
            path.relative_to(checkpoint).as_posix(): _digest(path, keep=True)
            for path in files
            if path.name != MANIFEST
        },
    }
    draft = checkpoint / f"{MANIFEST}.draft"
    with draft.open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(checkpoint / MANIFEST)
    for folder in (checkpoint, checkpoint.parent):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prune(directory: Path) -> None:
    """Keep the newest checkpoint and one to fall back on; call it once the newest is sealed."""
    for checkpoint in _newest_first(directory)[2:]:
        shutil.rmtree(checkpoint)


def newest_whole(directory: Path, run: str) -> Path | None:
    """Find the checkpoint to go on from, and remove what a kill left in pieces.

    Raises:
        RunConflict: the checkpoints belong to training with other data, settings or weights.
    """
    for checkpoint in _newest_first(directory):
        owner = _owner(checkpoint)
        if owner is None:
            logger.warning("checkpoint %s is not whole; it is removed", checkpoint.name)
            shutil.rmtree(checkpoint)
        elif owner != run:
            raise RunConflict(
                f"{directory} holds checkpoints of training with other data, settings or weights; "
                "wanted none or our own; give another directory, or remove them"
            )
        else:
            return checkpoint
    return None


def _newest_first(directory: Path) -> list[Path]:
    found = {
        int(match[1]): path
        for path in (directory.iterdir() if directory.is_dir() else ())
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-([0-9]+)", path.name))
    }
    return [found[step] for step in sorted(found, reverse=True)]


def _owner(checkpoint: Path) -> str | None:
    """Tell which training a checkpoint belongs to; None where it is not whole."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, owner = dict(manifest["files"]), str(manifest["run"])
        whole = all(_digest(checkpoint / name) == wanted for name, wanted in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner if whole else None


def _digest(path: Path, keep: bool = False) -> str:
    """Hash a file with its size, having first made sure that it is on the disk if it is to stay."""
    with path.open("rb") as stream:
        if keep:
            os.fsync(stream.fileno())
        return f"{path.stat().st_size}:{hashlib.file_digest(stream, 'blake2b').hexdigest()[:32]}"
