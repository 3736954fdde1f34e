from pathlib import Path

import pytest

from .miniature import HELP_PAGES, make_deb


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the packages of `HELP_PAGES`."""
    folder = tmp_path / "debs"
    folder.mkdir()
    for locale, pages in HELP_PAGES.items():
        files = {f"usr/share/libreoffice/help/{locale}/{path}": html for path, html in pages.items()}
        files["usr/share/libreoffice/help/media/x.html"] = "no help page"
        make_deb(folder, f"libreoffice-help-{locale.lower()}", "7.4.7", files)
    return folder
