"""Recipes by name: the files of `configs/`, which the installed package holds as `jaxretr.configs`."""

import difflib
from importlib import resources
from pathlib import Path

from jaxretr.files import as_path


def recipe_names(prefix: str = "") -> list[str]:
    """Return the names of the shipped recipes, or of the shipped studies for the prefix `study_`."""
    names = (entry.name.removesuffix(".py") for entry in resources.files("jaxretr.configs").iterdir())
    return sorted(name for name in names if not name.startswith("_") and name.startswith("study_") == bool(prefix))


def find_recipe(value: str, prefix: str = "") -> str:
    """Return the path of a recipe given as a path or as the name of a shipped recipe.

    Args:
      value: path of a Python file, or a name such as `hybrid`.
      prefix: `study_` for the design of a study.

    Raises:
      FileNotFoundError: there is no such file and no recipe of this name.
    """
    path = Path(as_path(value))
    if path.is_file():
        return str(path)
    names = recipe_names(prefix)
    if value in names:
        return str(resources.files("jaxretr.configs") / f"{value}.py")
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise FileNotFoundError(
        f"No such file or directory: '{path.absolute()}', and no recipe has the name {value!r}; {hint}The recipes are "
        f"{', '.join(names)}"
    )
