"""Words that carry grammar and little meaning: articles, prepositions, conjunctions, pronouns, auxiliaries.

Question words and negations are not among them: dropping those changes what is asked. Chinese and Thai have no list,
for without blanks a word cannot be told from a part of another.
"""

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": """a an the and or but if than that this these those of in on at by to for from with as into about is are
            was were be been am do does did has have had will would it its he she they them his her their we you""",
        "de": """der die das den dem des ein eine einen einem einer eines und oder aber als dass in im am an auf aus bei
            mit von vom zu zum zur für um nach ist sind war waren sein wird werden wurde wurden hat haben hatte es er
            sie sich""",
        "el": """ο η το οι τα του της των τον την τη τους τις ένα ένας μια μία ενός μιας και ή αλλά να θα σε στο στη
            στην στον στα στις στους από με για ως που είναι ήταν έχει είχε αυτό""",
        "es": """el la los las lo un una unos unas y e o u pero de del en a al por para con como que se su sus es son
            era eran fue fueron ser ha han había está están""",
        "ru": """и а но или в во на с со к ко по из от до о об у за для при над под это этот эта эти он она оно они его
            её ее их был была было были быть есть же ли бы""",
        "tr": """bir ve veya ile için gibi bu şu o da de ki ise olan olarak kadar""",
        "vi": """là và của có được trong cho với các những một này đó để từ bởi tại ở vào đã đang sẽ thì mà rằng""",
        "ar": """في من على إلى الى عن مع أو ثم أن إن هو هي هذا هذه ذلك تلك التي الذي كان كانت قد بين""",
        "hi": """का की के को से में पर ने और या है हैं था थी थे हो एक यह वह इस उस ये वे भी ही तो कि""",
        "th": "",
        "zh": "",
    }.items()
}
"""Language -> its function words, in small letters."""
