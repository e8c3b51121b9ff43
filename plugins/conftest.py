"""Makes each plugin's package importable for its tests, as it is when they are run inside the plugin's folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(manifest.parent) for manifest in sorted(Path(__file__).parent.glob("*/plugin.toml"))]
