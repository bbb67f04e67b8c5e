"""``python -m moa_dspy``: the command line."""

from __future__ import annotations

import sys

from moa_dspy.cli import main

if __name__ == "__main__":
    sys.exit(main())
