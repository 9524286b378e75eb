"""openclef: whole clinical EEG sessions, reports and health records in one embedding.

    model = openclef.CLEF.from_pretrained("runs/demo/model")
    embedding = model.embed(openclef.read_recording("session.edf"))

Names load what they need when first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openclef.model import CLEF as CLEF
    from openclef.signal import open_recording as open_recording
    from openclef.signal import preprocess as preprocess
    from openclef.signal import read_recording as read_recording
    from openclef.signal import spectrogram as spectrogram

_HOMES = {
    "CLEF": "openclef.model",
    "open_recording": "openclef.signal",
    "preprocess": "openclef.signal",
    "read_recording": "openclef.signal",
    "spectrogram": "openclef.signal",
}
__all__ = ["CLEF", "open_recording", "preprocess", "read_recording", "spectrogram"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'openclef' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
