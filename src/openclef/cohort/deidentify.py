"""What leaves a hospital's file names and clocks behind: shifted dates and pooled ages."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from openclef.errors import OpenclefError

OLDEST_AGE = 90
_MAX_SHIFT_DAYS = 3650
_OLDEST_POSSIBLE = 130
_MIN_KEY_BYTES = 16


def site_key() -> bytes:
    """The site's secret: `OPENCLEF_SITE_KEY` (hex), or a file in the user's configuration folder.

    Made at first use and kept, so that one site shifts a patient's dates alike every time.
    """
    given = os.environ.get("OPENCLEF_SITE_KEY")
    if given:
        try:
            key = bytes.fromhex(given)
        except ValueError as error:
            raise OpenclefError("OPENCLEF_SITE_KEY must be hexadecimal, e.g. 64 digits") from error
        return _long_enough(key, "OPENCLEF_SITE_KEY")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = base / "openclef" / "site.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, and never over one that another process has made meanwhile.
        descriptor, made = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(secrets.token_bytes(32))
            with suppress(FileExistsError):
                os.link(made, path)
        finally:
            os.unlink(made)
    return _long_enough(path.read_bytes(), str(path))


def _long_enough(key: bytes, where: str) -> bytes:
    """A short key can be found by trying all, and with it every date."""
    if len(key) < _MIN_KEY_BYTES:
        raise OpenclefError(
            f"{where}: a key of {len(key)} bytes; at least {_MIN_KEY_BYTES} are needed"
        )
    return key


def key_mark(key: bytes) -> str:
    """What tells one site's key from another's, and nothing of the key."""
    return hmac.new(key, b"mark", hashlib.sha256).hexdigest()[:8]


def date_shift(subject: str, *, key: bytes) -> timedelta:
    """Whole days, 1 to 3,650, by which every date of one patient is moved into the past."""
    digest = hmac.new(key, f"dates/{subject}".encode(), hashlib.sha256).digest()
    return -timedelta(days=1 + int.from_bytes(digest[:8], "big") % _MAX_SHIFT_DAYS)


def pooled_age(age: float | None) -> float | None:
    """Ages above 89 become 90; what no one lives to (999, infinity) is an age not known."""
    if age is None or not 0 <= age <= _OLDEST_POSSIBLE:  # NaN neither
        return None
    return min(age, float(OLDEST_AGE))
