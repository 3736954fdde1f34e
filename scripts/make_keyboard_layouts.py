"""Read from the system's keyboard database which key types which character, and print `layouts.py`.

    python scripts/make_keyboard_layouts.py > jaxretr/perturb/text/layouts.py

Needs libxkbcommon and the layouts of xkeyboard-config (Debian: libxkbcommon0, xkb-data). Run it only to add a language.
"""

import ctypes
import ctypes.util
import unicodedata
from collections.abc import Mapping

NAMES = {
    "en": "us",
    "de": "de",
    "el": "gr",
    "es": "es",
    "ru": "ru",
    "tr": "tr",
    "vi": "vn",
    "ar": "ara",
    "hi": "in",
    "th": "th",
}
"""Language -> layout of xkeyboard-config."""

_NUMBERED = [
    [f"A{row}{i:02}" for i in range(1, count + 1)] for row, count in zip("EDCB", (12, 12, 11, 10), strict=True)
]
KEYS = (("TLDE", *_NUMBERED[0]), tuple(_NUMBERED[1]), (*_NUMBERED[2], "BKSL"), ("LSGT", *_NUMBERED[3]))
"""XKB key names of each row of a pc105 keyboard, left to right."""


class _RuleNames(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("rules", "model", "layout", "variant", "options")]


def read_layout(name: str) -> list[list[str]]:
    """Return what each row of keys types: first the four rows without Shift, then the four rows with Shift.

    Args:
      name: a layout of xkeyboard-config, such as "us".

    Returns:
      Characters per key; "" for a key that types nothing by itself.

    Raises:
      OSError: the library or the layout is missing.
    """
    library = _library()
    context = library.xkb_context_new(0)
    rules = _RuleNames(b"evdev", b"pc105", name.encode(), b"", b"")
    keymap = library.xkb_keymap_new_from_names(context, ctypes.byref(rules), 0)
    if not keymap:
        raise OSError(f"No keyboard layout {name!r}; install xkeyboard-config (Debian: xkb-data) or correct the name.")
    rows = [[_typed(library, keymap, key, shift) for key in keys] for shift in (0, 1) for keys in KEYS]
    library.xkb_keymap_unref(keymap)
    library.xkb_context_unref(context)
    return rows


def source(layouts: Mapping[str, list[list[str]]]) -> str:
    """Return the module `layouts.py`: language -> rows; spaces separate the keys of a row."""
    lines = [
        '"""Which key types which character. Facts from xkeyboard-config.',
        "",
        "Written by `scripts/make_keyboard_layouts.py`; do not edit. Language -> rows of keys, top to bottom, first",
        "without Shift and then with Shift. Spaces separate the keys of a row, from left to right. An empty string",
        "between two spaces stands for a key that types no character by itself.",
        '"""',
        "",
        "LAYOUTS: dict[str, tuple[str, ...]] = {",
    ]
    for language, rows in layouts.items():
        lines.append(f'    "{language}": (')
        for row in rows:
            text = " ".join(row).replace("\\", "\\\\").replace('"', '\\"')
            quote = f"'{text.replace(chr(92) + chr(34), chr(34))}'" if '"' in text and "'" not in text else f'"{text}"'
            lines.append(f"        {quote},")
        lines.append("    ),")
    return "\n".join([*lines, "}", ""])


def _typed(library: ctypes.CDLL, keymap: int, key: str, level: int) -> str:
    code = library.xkb_keymap_key_by_name(keymap, key.encode())
    symbols = ctypes.POINTER(ctypes.c_uint32)()
    count = library.xkb_keymap_key_get_syms_by_level(keymap, code, 0, level, ctypes.byref(symbols))
    character = chr(library.xkb_keysym_to_utf32(symbols[0])) if count == 1 else "\0"
    # Arabic ligatures have keys, but texts spell them out.
    ligature = unicodedata.decomposition(character).startswith("<isolated>")
    return "" if ligature or character == "\0" else character


def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("xkbcommon")
    if name is None:
        raise OSError("libxkbcommon is not installed (Debian: libxkbcommon0, xkb-data); it is needed to read layouts.")
    library = ctypes.CDLL(name)
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    for function, result, arguments in [
        ("xkb_context_new", pointer, [ctypes.c_int]),
        ("xkb_context_unref", None, [pointer]),
        ("xkb_keymap_new_from_names", pointer, [pointer, pointer, ctypes.c_int]),
        ("xkb_keymap_unref", None, [pointer]),
        ("xkb_keymap_key_by_name", number, [pointer, ctypes.c_char_p]),
        ("xkb_keymap_key_get_syms_by_level", ctypes.c_int, [pointer, number, number, number, pointer]),
        ("xkb_keysym_to_utf32", number, [number]),
    ]:
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


if __name__ == "__main__":
    print(source({language: read_layout(name) for language, name in NAMES.items()}), end="")
