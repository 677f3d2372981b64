"""What this host says of itself."""

from pathlib import Path


def machine_id(path: Path = Path("/etc/machine-id")) -> str | None:
    """Read the host's id; ``None`` where there is none, as in most containers."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
