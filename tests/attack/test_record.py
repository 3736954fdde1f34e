from pathlib import Path

from jaxretr.attack.record import TEXTS_FILE, AdversarialText, load_texts, save_texts

TEXTS = [
    AdversarialText("typos@1", "en:q1", None, f"clean{separator}text", f"clea{separator}ntext", 1, 3)
    for separator in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n")
]


def test_texts_with_line_separators_survive_the_disk(tmp_path: Path) -> None:
    save_texts(tmp_path, TEXTS)
    assert load_texts(tmp_path) == TEXTS


def test_a_text_cut_by_a_crash_is_left_out_and_written_anew(tmp_path: Path) -> None:
    save_texts(tmp_path, TEXTS)
    path = tmp_path / TEXTS_FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert load_texts(tmp_path) == TEXTS[:-1]
    save_texts(tmp_path, TEXTS)
    assert load_texts(tmp_path) == TEXTS
