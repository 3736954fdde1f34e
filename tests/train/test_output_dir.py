import json
from pathlib import Path

import pytest

from jaxretr.train.output_dir import check_content

BEFORE = {"training data": "1", "model": "2", "passages": "3"}


def begun(directory: Path, *, content: dict[str, str] | None, by: str) -> Path:
    directory.mkdir()
    (directory / "results_before.json").write_text("{}")
    if content is not None:
        (directory / "content.json").write_text(json.dumps(content))
    if by:
        (directory / by).mkdir(parents=True) if "checkpoints" in by else (directory / by).write_text("{}")
    return directory


@pytest.mark.parametrize("by", ["checkpoints/5", "results.json"])
@pytest.mark.parametrize("name", BEFORE)
def test_a_run_on_other_content_is_neither_resumed_nor_taken_as_finished(tmp_path: Path, by: str, name: str) -> None:
    output_dir = begun(tmp_path / "run", content=BEFORE, by=by)
    check_content(output_dir, BEFORE)
    with pytest.raises(ValueError, match=rf"different content under the same names \({name} was '.', is 'new'\)"):
        check_content(output_dir, BEFORE | {name: "new"})


def test_a_run_without_a_checkpoint_starts_with_the_new_content(tmp_path: Path) -> None:
    output_dir = begun(tmp_path / "run", content=BEFORE, by="")
    check_content(output_dir, BEFORE)
    assert (output_dir / "results_before.json").exists()
    check_content(output_dir, BEFORE | {"model": "new"})
    assert not (output_dir / "results_before.json").exists()


def test_a_run_of_an_older_version_is_resumed_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_content(begun(tmp_path / "run", content=None, by="checkpoints/5"), BEFORE)
    assert "does not record its data and model" in capsys.readouterr().out
