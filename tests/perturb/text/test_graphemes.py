from jaxretr.perturb.text.graphemes import split, words


def test_clusters_of_each_script():
    assert split("क्षत्रिय") == ["क्ष", "त्रि", "य"]
    assert split("น้ำท่วม") == ["น้ำ", "ท่", "ว", "ม"]
    assert split("Việt") == ["V", "i", "ệ", "t"]
    assert split("e\u0301") == ["e\u0301"]


def test_words_are_runs_of_letters():
    text = "¿Qué año, 2024?"
    assert ["".join(word.graphemes) for word in words(text)] == ["Qué", "año"]
    assert all(word.before + "".join(word.graphemes) + word.after == text for word in words(text))


def test_graphemes_that_would_run_into_each_other_are_refused():
    (word,) = words("किताब")
    assert word.graphemes == ["कि", "ता", "ब"]
    assert word.replaced(["कि", "ब", "ता"]) == "किबता"
    assert word.replaced(["कि", "ा", "ब"]) is None
