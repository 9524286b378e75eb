"""Artefact folders: `config.json` first, data, `metrics.jsonl`, and `manifest.json` last.

A manifest means complete. A verb run again on a complete folder does nothing, on an unfinished
one it resumes, and on a folder of another configuration it refuses: nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from openclef.errors import ArtefactError

_VERSIONED = ("openclef", "numpy", "scipy", "mne", "torch", "scikit-learn")

Config = TypeVar("Config", bound=BaseModel)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, renamed onto it only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number, which another machine or container that shares the folder may have.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove what killed writers left below `folder`: those of `atomic` and of Zarr."""
    for pattern in (".*.tmp", "*.partial"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def hash_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _installed_versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Artefact:
    """A folder being written or already complete; made by `begin` or `load`."""

    folder: Path
    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @property
    def hash(self) -> str:
        """Identity of a complete artefact: kind, configuration, inputs and data."""
        return str(self.manifest()["hash"])

    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        if not path.exists():
            raise ArtefactError(
                f"{self.folder}: not complete (no manifest.json); run its verb again"
            )
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest

    def log(self, **values: Any) -> None:
        """Append one row to `metrics.jsonl`."""
        with (self.folder / "metrics.jsonl").open("a") as handle:
            handle.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a row cut short by a kill; the resumed run writes it again
        return rows

    def keep_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace `metrics.jsonl`, so that a resumed run does not log a step twice."""
        with atomic(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def finish(self, outputs: Iterable[str]) -> None:
        """Write the manifest: `outputs` are the data files (relative) that define the artefact."""
        files = {name: hash_file(self.folder / name) for name in sorted(outputs)}
        write_json(
            self.folder / "manifest.json",
            {
                "kind": self.kind,
                "inputs": dict(self.inputs),
                "outputs": files,
                "hash": self._hash_of(files),
                "versions": _installed_versions(),
            },
        )

    def _hash_of(self, files: Mapping[str, str]) -> str:
        """Of what the artefact is: files by their hashes, and what they were made with and of."""
        return hash_json(
            {
                "kind": self.kind,
                "config": self.config,
                "inputs": dict(self.inputs),
                "outputs": dict(files),
            }
        )

    def check_unchanged(self) -> None:
        """Raise ArtefactError if data, configuration or inputs are not those of the hash."""
        manifest = self.manifest()
        told: dict[str, str] = manifest["outputs"]
        files = {name: hash_file(self.folder / name) for name in told}
        changed = [name for name, value in files.items() if value != told[name]]
        if not changed and self._hash_of(told) != manifest["hash"]:
            changed = ["config.json"]
        if changed:
            raise ArtefactError(
                f"{self.folder / changed[0]}: not what manifest.json beside it tells of: changed "
                "or damaged since; copy the whole folder again, or make what is new anew"
            )


def has_content(folder: Path) -> bool:
    """Whether a folder holds anything but what a killed `atomic` left behind."""
    return folder.is_dir() and any(
        not (path.name.startswith(".") and path.name.endswith(".tmp")) for path in folder.iterdir()
    )


def refuse_foreign(folder: Path) -> None:
    """Raise ArtefactError unless `folder` is missing, empty or an artefact, of whatever kind."""
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{folder}: is a file; give a folder")
    if has_content(folder) and not (folder / "config.json").exists():
        raise ArtefactError(
            f"{folder}: not empty and not an openclef artefact; choose another output folder"
        )


def read_identity(path: Path) -> dict[str, Any]:
    """Read a `config.json`: kind, config and inputs; raises ArtefactError if it is none of ours."""
    try:
        identity = json.loads(path.read_text("utf-8"))
    except ValueError:
        identity = None
    is_whole = isinstance(identity, dict) and {"kind", "config", "inputs"} <= set(identity)
    if not is_whole or not isinstance(identity["config"], dict):
        raise ArtefactError(f"{path}: not of an openclef artefact; choose another folder")
    return identity


def begin(
    folder: Path, *, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Artefact:
    """Open `folder` for writing an artefact, new, resumed or complete.

    Raises ArtefactError if it holds another kind, configuration or inputs, or foreign files.
    """
    identity = {"kind": kind, "config": dict(config), "inputs": dict(inputs)}
    path = folder / "config.json"
    refuse_foreign(folder)
    if path.exists():
        earlier = read_identity(path)
        if earlier != json.loads(json.dumps(identity)):
            raise ArtefactError(
                f"{folder}: holds {earlier['kind']} of another "
                f"configuration ({_first_difference(earlier, identity)}); "
                "choose another output folder or delete this one"
            )
    else:
        write_json(path, identity)
    return Artefact(folder, kind, dict(config), dict(inputs))


def load(folder: Path, *, kind: str) -> Artefact:
    """Open a complete artefact of `kind`; raises ArtefactError if it is not one."""
    path = folder / "config.json"
    if not path.exists():
        raise ArtefactError(f"{folder}: no {kind} artefact here (no config.json)")
    identity = read_identity(path)
    if identity["kind"] != kind:
        raise ArtefactError(f"{folder}: holds another artefact, {identity['kind']}, not {kind}")
    artefact = Artefact(folder, kind, identity["config"], identity["inputs"])
    if not artefact.is_complete:
        raise ArtefactError(
            f"{folder}: {kind} is not complete (no manifest.json); run its verb again"
        )
    return artefact


def read_config(source: Artefact, config_class: type[Config], part: str | None = None) -> Config:
    """The configuration of an artefact, or the part under this key, validated.

    Raises ArtefactError naming the field if one is missing, unknown or of a value not allowed.
    """
    try:
        return config_class.model_validate(
            source.config if part is None else source.config.get(part)
        )
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
    where = ".".join(map(str, ("config", *([part] if part else []), *first["loc"])))
    # What is given is of interest if it is one value; of a whole part the message tells enough.
    given = "" if isinstance(first["input"], dict | list) else f", given {first['input']!r}"
    told = first["msg"].removeprefix("Value error, ") + given
    told += f" (and {len(others)} more)" if others else ""
    raise ArtefactError(
        f"{source.folder / 'config.json'}: {where}: {told}; changed or damaged since, or of a "
        "newer openclef: copy the whole folder again, or update openclef"
    )


def _first_difference(earlier: Any, now: Any, where: str = "") -> str:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in sorted(set(earlier) | set(now)):
            if earlier.get(key) != now.get(key):
                return _first_difference(
                    earlier.get(key), now.get(key), f"{where}.{key}".strip(".")
                )
    return f"{where}: {earlier!r} there, {now!r} asked"


def check_free_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what will not fit: `needed_bytes` on the disk that holds `folder`."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ArtefactError(
            f"{folder}: needs {needed_bytes / 2**30:.1f} GiB of disk, {free / 2**30:.1f} GiB free"
        )
