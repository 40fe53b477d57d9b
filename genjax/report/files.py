"""Files that are whole or absent: nobody ever reads one that is half written."""

import os
from pathlib import Path

from genjax.errors import Damaged


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Writes a file under a temporary name beside it, then renames it over the old one.

    Args:
      path: where; the folder must exist.
      data: the whole content; text is written as UTF-8.

    Returns:
      The path.

    Raises:
      Damaged: the disk is full, or the folder is absent or not writable; the old file is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_whole(f"{folder}/note.txt", "one")
    ...     write_whole(path, "two").read_text()
    'two'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Damaged(
            f"cannot write {path}: {error.strerror}", "", "free some space or choose another --workdir"
        ) from error
    return path
