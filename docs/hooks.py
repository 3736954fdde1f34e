"""Hooks of the documentation site; mkdocs.yml names this file.

- README.md is the first page of the site. Other files outside `docs/` that `PAGES` names are pages, too.
- `docs/index.md` describes the index of passages. mkdocs would take it as the first page, so `MOVED` gives it another
  address.
- `NOTEBOOKS` are scripts in Jupytext's percent format. Each becomes a page, with the notebook as a download.
- A link from one page to another is kept. A link to a file that is no page becomes the path of the file.
- `<!-- help: COMMAND -->` is replaced by the output of `jaxretr COMMAND --help`.
- `::: jaxretr.PACKAGE`, which mkdocstrings replaces by a reference, stands for all modules of the package.
"""

import ast
import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "home.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tpu/README.md": "how-to/run_on_a_tpu_slice.md",
}
"""Files outside docs/ -> the page that shows them."""
NOTEBOOKS = {"docs/tutorials/own_pairs.py": "tutorials/own_pairs.md"}
"""Scripts in Jupytext's percent format -> the page that shows the cells."""
MOVED = {"home.md": "index.html", "index.md": "passage-index/index.html"}
"""Page -> its address, if mkdocs would choose another."""

ROOT = Path(__file__).parents[1]
HELP = re.compile(r"^<!-- help: (.*) -->$", re.MULTILINE)
MODULE = re.compile(r"^::: (jaxretr[.\w]*)$", re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^][]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `PAGES` and `NOTEBOOKS`, and set the addresses of `MOVED`."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source, page in NOTEBOOKS.items():
        notebook = jupytext.read(ROOT / source)
        download = posixpath.splitext(page)[0] + ".ipynb"
        files.append(File.generated(config, page, content=_cells(notebook, posixpath.basename(download))))
        files.append(File.generated(config, download, content=jupytext.writes(notebook, "ipynb")))
    for page, address in MOVED.items():
        file = files.get_file_from_path(page)
        file.dest_uri = address
        file.name = posixpath.dirname(address) or "index"
        for cached in ("url", "abs_dest_path"):
            file.__dict__.pop(cached, None)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files outside `docs/`, and insert the help texts of commands."""
    here = page.file.src_uri
    source = next((source for source, shown in PAGES.items() if shown == here), f"docs/{here}")

    def linked(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        shown = (PAGES | NOTEBOOKS).get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if shown is None:
            return f"`{path}`" if link["text"].strip("`") == path else f"{link['text']} (`{path}`)"
        target = posixpath.relpath(shown, posixpath.dirname(here))
        return f"{link['image']}[{link['text']}]({target}{link['anchor'] or ''})"

    markdown = HELP.sub(lambda match: f"```text\n{_help_text(match[1])}\n```", LINK.sub(linked, markdown))
    return MODULE.sub(lambda match: "\n\n".join(_references(match[1])), markdown)


def _cells(notebook: Any, download: str) -> str:
    """Return the cells of a notebook as Markdown, with a link to the notebook below the title."""
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in notebook.cells
    ]
    title, _, rest = cells[0].partition("\n")
    return "\n\n".join([title, f"[Download this page as a notebook]({download})", rest, *cells[1:]])


def _references(name: str) -> Iterator[str]:
    """Yield mkdocstrings' directive for each module of a package, sorted by name. It omits names that are imported."""
    folder = ROOT / name.replace(".", "/")
    files = list(folder.rglob("*.py")) or [folder.with_suffix(".py")]
    for file in sorted(files, key=lambda file: file.relative_to(ROOT).with_suffix("").parts):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield f"::: {module}\n    options:\n      members: {json.dumps(_defined_names(file))}"


def _defined_names(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                names.append(name)
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def _help_text(command: str) -> str:
    """Return the output of `jaxretr COMMAND --help`."""
    run = subprocess.run(
        [sys.executable, "-m", "jaxretr", command, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return run.stdout.strip()
