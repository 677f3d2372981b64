"""Draw the pictures of docs/dashboards.md: ``python -m tests.pictures``. Takes five minutes and needs root."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.pictures.asking import pictures
from tests.pictures.scene import WINDOW_S, Scene

FOLDER = Path(__file__).parents[2] / "docs" / "dashboards"


def main() -> int:
    """Play the scene, and write all pictures or none; returns the exit code."""
    with TemporaryDirectory() as folder, Scene(Path(folder)) as scene:
        times = scene.play()
        drawn = list(pictures(scene.monitoring, times, f"{WINDOW_S}s"))
    for name, picture in drawn:
        (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
