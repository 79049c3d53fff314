"""`evermodel init`: a complete project in a new folder, copied from the parts that this package ships.

The pipelines, components, feature repository and serving app belong to the project, not to the library: they declare
and call it, and the user changes them at will. An installed wheel has them below `template/`; a checkout of this
repository has them at its top.
"""

from pathlib import Path

from evermodel import storage
from evermodel.errors import InputError, nearest
from evermodel.profile import MARKER

PARTS = ("pipelines", "components", "feature_repo", "serving")
SUFFIXES = {".py", ".yaml", ".md"}


def write_project(folder: Path, template: str) -> list[Path]:
    """Write a project to `folder`; the paths written.

    InputError if the folder isn't empty or there is no such template.
    """
    origin = _origin()
    templates = {path.stem: path for path in sorted((origin / "use_cases").glob("*.yaml"))}
    if template not in templates:
        raise InputError(f"no template {template!r}; {nearest(template, templates)}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder")
    files = {Path("use_cases") / f"{template}.yaml": templates[template], Path(MARKER): origin / MARKER}
    for part in PARTS:
        for path in sorted((origin / part).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "compiled" not in path.parts:
                files[path.relative_to(origin)] = path
    for target, source in files.items():
        storage.write_bytes(folder / target, storage.read_bytes(source))
    storage.write_text(folder / ".gitignore", ".evermodel/\n__pycache__/\n")
    return [folder / target for target in [*files, Path(".gitignore")]]


def _origin() -> Path:
    """The folder that holds the parts: of the installed wheel, or of the checkout."""
    shipped = Path(__file__).with_name("template")
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[2]
