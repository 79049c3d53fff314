"""PostgreSQL's own password file, for programs that take a URL and no file: the password is in neither arguments nor environment."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url

from evermodel import storage
from evermodel.errors import InputError


def write_passfile(url: str, folder: str | Path) -> tuple[str, Path | None]:
    """`url` without its `password_file`, and a file in `folder`, its owner's alone, that libpq finds the password in.

    None where the URL names no password file, or isn't PostgreSQL's. Name it to a program by PGPASSFILE, or in a URL by
    `passfile=`. A changed password needs a new one.
    """
    parsed = make_url(url)
    source = parsed.query.get("password_file")
    if source is None:
        return url, None
    if parsed.get_backend_name() != "postgresql":
        raise InputError(f"{parsed}: password_file is PostgreSQL's")
    parsed = parsed.difference_update_query(["password_file"])
    password = storage.read_text(str(source)).rstrip("\n")
    entry = [parsed.host or "*", str(parsed.port or 5432), "*", parsed.username or "*", password]
    file = Path(folder) / "pgpass"
    storage.write_text(file, ":".join(_escaped(part) for part in entry) + "\n")  # mode 0600: libpq reads no other
    return parsed.render_as_string(hide_password=False), file


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace(":", "\\:")
