"""Chinese characters that sound alike: what a pinyin input method offers instead.

In: a character. Out: characters. The 3,755 commonest characters are the first level of the standard GB 2312, which
sorts them by pinyin; five of six of those next to a character there share its syllable, the others have the next one.
"""

_FIRST, _LAST = 0xB0A1, 0xD7F9
_SIZE = 94  # characters of one row, whose second bytes are 0xA1 to 0xFE
_NEAR = 2


def similar_sounds(character: str) -> tuple[str, ...]:
    """Up to two characters before and two after `character` by pinyin; none for what is not of the first level."""
    code = int.from_bytes(character.encode("gb2312", "ignore"))
    if not _FIRST <= code <= _LAST:
        return ()
    place = (code // 256 - _FIRST // 256) * _SIZE + code % 256 - 0xA1
    last = (_LAST // 256 - _FIRST // 256) * _SIZE + _LAST % 256 - 0xA1
    near = range(max(place - _NEAR, 0), min(place + _NEAR, last) + 1)
    return tuple(_at(other) for other in near if other != place)


def _at(place: int) -> str:
    row, column = divmod(place, _SIZE)
    return bytes((_FIRST // 256 + row, 0xA1 + column)).decode("gb2312")
