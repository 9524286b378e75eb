"""What leaves a hospital's file names and clocks behind: shifted dates and pooled ages."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import timedelta
from pathlib import Path

from openclef.errors import OpenclefError

OLDEST_AGE = 90
_MAX_SHIFT_DAYS = 3650


def site_key() -> bytes:
    """The site's secret: `OPENCLEF_SITE_KEY` (hex), or a file in the user's configuration folder.

    Made at first use and kept, so that one site shifts a patient's dates alike every time.
    """
    given = os.environ.get("OPENCLEF_SITE_KEY")
    if given:
        try:
            return bytes.fromhex(given)
        except ValueError as error:
            raise OpenclefError("OPENCLEF_SITE_KEY must be hexadecimal, e.g. 64 digits") from error
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = base / "openclef" / "site.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(32))
    return path.read_bytes()


def date_shift(subject: str, *, key: bytes) -> timedelta:
    """Whole days, 1 to 3,650, by which every date of one patient is moved into the past."""
    digest = hmac.new(key, f"dates/{subject}".encode(), hashlib.sha256).digest()
    return -timedelta(days=1 + int.from_bytes(digest[:8], "big") % _MAX_SHIFT_DAYS)


def pooled_age(age: float | None) -> float | None:
    """Ages above 89 become 90."""
    if age is None or age < 0:
        return None
    return min(age, float(OLDEST_AGE))
