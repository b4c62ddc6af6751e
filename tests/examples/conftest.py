"""Makes the example programs importable as they import themselves: from their own folder."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES / "openpose"))
