"""The command, run in this process: one of its own would load torch anew, seconds a call."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from openclef.cli import main


def openclef(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What `main` prints of these arguments, and its exit code; other errors are raised."""
    given = ["openclef", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", given), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
