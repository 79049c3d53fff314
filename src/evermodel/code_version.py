"""Which code made a model: the version alone doesn't change when the code does."""

from functools import cache
from pathlib import Path

import evermodel
from evermodel import storage
from evermodel.records import sha256


@cache
def code_version() -> str:
    """`<version>+<twelve digits>` over the package's source files: other code, other version."""
    root = Path(evermodel.__file__).parent
    files = storage.list_files(root, suffix=".py")
    parts = [
        f"{path[len(str(root)) :]}:{sha256(storage.read_bytes(path))}" for path in files if "/template/" not in path
    ]
    return f"{evermodel.__version__}+{sha256(chr(10).join(parts).encode())[:12]}"
