"""The version of the code that trains a model, by its content: the package's version does not change with each edit."""

from functools import cache
from pathlib import Path

import evermodel
from evermodel import storage
from evermodel.records import sha256


@cache
def code_version() -> str:
    """`<version>+<twelve hex digits>`: the digits are a digest of the package's source files."""
    root = Path(evermodel.__file__).parent
    files = storage.list_files(root, suffix=".py")
    parts = [
        f"{path[len(str(root)) :]}:{sha256(storage.read_bytes(path))}" for path in files if "/template/" not in path
    ]
    return f"{evermodel.__version__}+{sha256(chr(10).join(parts).encode())[:12]}"
