"""What several extensions do with a stored output: bytes that it carries as text become files of the built site."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path


def store(packed: str, folder: Path, kind: str, suffix: str) -> str:
    """Write bytes, packed as text, to a file of the built site that is named for what it holds; return its name."""
    content = base64.b64decode(packed)
    name = f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return name


def picture_as_file(html: str, images: Path, address: str, kind: str) -> str:
    """Return a figure with its picture written to the folder ``images``, which pages find at ``address``."""
    return re.sub(
        r'src="data:image/png;base64,([^"]*)"',
        lambda match: f'src="{address}/{store(match[1], images, kind, ".png")}"',
        html,
    )
