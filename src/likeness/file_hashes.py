"""SHA-256 of large files, remembered between processes by place, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def file_hashes(files: list[Path]) -> list[str]:
    """Return each file's SHA-256 in hex; what was hashed before and has not changed is not read again."""
    known = _read_known()
    hashes = [_file_hash(file, known) for file in files]
    _write_known(known)
    return hashes


def _file_hash(file: Path, known: dict[str, str]) -> str:
    stat = file.stat()
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in known:
        with file.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return known[key]


def _known_path() -> Path:
    root = os.environ.get("LIKENESS_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "likeness" / "file-hashes.json"


def _read_known() -> dict[str, str]:
    try:
        known = json.loads(_known_path().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_known(known: dict[str, str]) -> None:
    """Remember file hashes; a cache that cannot be written only costs time."""
    path = _known_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(known))
        fresh.replace(path)
    except OSError:
        return
