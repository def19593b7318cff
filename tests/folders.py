"""What tests look at in folders."""

import pathlib


def snapshot(folder: pathlib.Path) -> dict[str, bytes | None]:
  """All that a folder holds: the files' bytes, and None for a folder in it."""
  found = {}
  for path in sorted(folder.rglob('*')):
    content = path.read_bytes() if path.is_file() else None
    found[str(path.relative_to(folder))] = content
  return found
