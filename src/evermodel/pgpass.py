"""PostgreSQL's own password file, for programs that take only a URL: no password in arguments or environment."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url

from evermodel import storage
from evermodel.errors import InputError


def write_passfile(url: str, folder: str | Path) -> tuple[str, Path | None]:
    """Write libpq's password file (mode 0600) into `folder`; returns `url` without its `password_file`, and the file.

    The file is None if the URL names no password file. A program finds it by PGPASSFILE, or by `passfile=` in a URL. A
    changed password needs a new file. InputError if the URL is not PostgreSQL's.
    """
    parsed = make_url(url)
    source = parsed.query.get("password_file")
    if source is None:
        return url, None
    if parsed.get_backend_name() != "postgresql":
        raise InputError(f"{parsed}: password_file works for PostgreSQL only")
    parsed = parsed.difference_update_query(["password_file"])
    password = storage.read_text(str(source)).rstrip("\n")
    entry = [parsed.host or "*", str(parsed.port or 5432), "*", parsed.username or "*", password]
    file = Path(folder) / "pgpass"
    storage.write_text(file, ":".join(_escaped(part) for part in entry) + "\n")  # mode 0600: libpq refuses any other
    return parsed.render_as_string(hide_password=False), file


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace(":", "\\:")
