import pytest

from jaxretr.data.sources import split_files

from .miniature import write


def located(root, *names):
    for name in names:
        write(root / name, "")
    found = split_files.locate(root)
    return {split: [(file.name, file.language) for file in files] for split, files in found.items()}


@pytest.mark.parametrize(
    ("name", "split", "language"),
    [
        ("train.jsonl", "train", None),
        ("train-de.jsonl", "train", "de"),
        ("test_de.jsonl.gz", "test", "de"),
        ("train.en.jsonl.gz", "train", "en"),
        ("validation-pt_BR.parquet", "validation", "pt_BR"),
        ("valid.jsonl", "validation", None),
        ("val-zh-Hant-TW.jsonl", "validation", "zh-Hant-TW"),
        ("dev-eng_Latn.jsonl", "validation", "eng_Latn"),
        ("train-00000-of-00002.parquet", "train", None),
        ("test-00000-of-00001-1a2b3c4d5e6f7a8b.parquet", "test", None),
        ("train-en-00000-of-00002.parquet", "train", "en"),
        ("en/train-00000-of-00002.parquet", "train", "en"),
        ("data/dev-00000-of-00001.parquet", "validation", None),
        ("default/train/0000.parquet", "train", None),
        ("train/de.jsonl", "train", "de"),
        ("de/train/part-3.jsonl", "train", "de"),
    ],
)
def test_a_path_says_split_language_and_shard(tmp_path, name, split, language):
    stem = name.removesuffix(".gz").rpartition(".")[0]
    assert located(tmp_path, name) == {split: [(stem, language)]}


@pytest.mark.parametrize(
    "name",
    [
        "train-clean.jsonl",  # no language tag
        "train-german.jsonl",
        "train-00000-of-00002-de.parquet",
        "german/train.jsonl",
        "part1.jsonl",
        "en.jsonl",
        "en/train-de.jsonl",  # two languages
        "train/dev.jsonl",  # two splits
    ],
)
def test_what_is_no_language_tag_is_an_error_that_names_the_file_and_the_patterns(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: name the file train, .* Expected <split>\.jsonl, .*such as de"):
        located(tmp_path, "train.jsonl", name)


def test_a_single_file_of_another_name_is_the_train_split_unless_it_begins_with_a_split(tmp_path):
    (file,) = split_files.locate(write(tmp_path / "mine.jsonl", ""))["train"]
    assert (file.name, file.language) == ("mine", None)
    assert list(split_files.locate(write(tmp_path / "a/dev-de.jsonl", ""))) == ["validation"]
    with pytest.raises(ValueError, match="'test-questions' is neither"):
        split_files.locate(write(tmp_path / "test-questions.jsonl", ""))


def test_two_files_of_one_name_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"train\.jsonl\.gz and train\.jsonl differ only in the suffix; remove one"):
        located(tmp_path, "train.jsonl", "train.jsonl.gz")


def test_what_systems_leave_is_no_data(tmp_path):
    litter = ("._train.jsonl", ".DS_Store", "__MACOSX/._train.jsonl", "__MACOSX/x.jsonl", ".cache/x.jsonl", "Thumbs.db")
    assert located(tmp_path, "train.jsonl", *litter) == {"train": [("train", None)]}
