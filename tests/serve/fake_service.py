"""A service of the search page's contract that answers from a script: no model, no index, no dependency."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "jaxretr/serve/page.html"
KEY = "correct horse"
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> & <b>bold</b>"
BIDI = "before \u202egnorw\u202d \u2067isolated for ever"
QUESTION = "Which is the longest river in Africa?"

_PASSAGES: list[tuple[str, str, str]] = [
    (
        "en",
        "Nile",
        "The Nile is a major river in northeastern Africa that flows north into the Mediterranean Sea. It has "
        "historically been taken for the longest river in the world, though some measurements give that place to the "
        "Amazon. Eleven countries share its basin: among them Uganda, Ethiopia, South Sudan, Sudan and Egypt, whose "
        "fields have lived off its floods since antiquity. The White Nile rises in the region of the great lakes; the "
        "Blue Nile comes from Lake Tana in Ethiopia, and the two meet at Khartoum. North of the city the river runs "
        "almost wholly through desert, in a great bend over six cataracts, to the broad delta below Cairo. There it "
        "splits into two branches, of Rosetta and Damietta, and reaches the sea after some 6,650 kilometres.",
    ),
    (
        "ar",
        "نهر النيل",
        "نهر النيل هو أطول نهر في أفريقيا، ويبلغ طوله نحو 6650 كيلومترًا. ينبع النيل الأزرق من بحيرة تانا في إثيوبيا، "
        "ويلتقي بالنيل الأبيض عند الخرطوم، ثم يجري شمالًا (عبر مصر) حتى يصب في البحر المتوسط.",
    ),
    (
        "he",
        "נילוס",
        "הנילוס הוא הנהר הארוך באפריקה, ואורכו כ־6,650 ק״מ. הוא זורם צפונה דרך סודאן ומצרים ונשפך אל הים התיכון "
        "בדלתא רחבה שמצפון לקהיר.",
    ),
    (
        "zh",
        "尼罗河",
        "尼罗河是非洲最长的河流，全长约6650公里，流经坦桑尼亚、乌干达、南苏丹、苏丹和埃及等国，最后注入地中海。白尼罗河与青尼罗河"
        "在喀土穆汇合。古埃及文明正是在尼罗河的泛滥平原上发展起来的，那里的农业至今仍依赖河水灌溉。",
    ),
    (
        "th",
        "แม่น้ำไนล์",
        "แม่น้ำไนล์เป็นแม่น้ำที่ยาวที่สุดในทวีปแอฟริกา มีความยาวประมาณ 6,650 กิโลเมตร ไหลขึ้นเหนือผ่านประเทศซูดานและอียิปต์"
        "ลงสู่ทะเลเมดิเตอร์เรเนียนแม่น้ำไนล์ขาวและแม่น้ำไนล์น้ำเงินบรรจบกันที่กรุงคาร์ทูม",
    ),
    (
        "hi",
        "नील नदी",
        "नील नदी अफ़्रीका की सबसे लंबी नदी है। इसकी लंबाई लगभग 6,650 किलोमीटर है। यह नदी उत्तर की ओर बहती हुई सूडान और मिस्र "
        "से होकर भूमध्य सागर में गिरती है।",
    ),
    (
        "de",
        "Nil",
        "Der Nil ist mit etwa 6650 Kilometern der längste Fluss Afrikas. In Kairo erinnert an ihn manche STRASSE, und "
        "manche Straße läuft an seinem Ufer. Aktiengesellschaften der Flussschifffahrt nennen sich gern nach ihm.",
    ),
    (
        "ja",
        "ナイル川",
        "ナイル川はアフリカ大陸で最も長い川で、長さは約6,650キロメートルです。エジプトのカイロを通り、地中海に注ぎます。",
    ),
    (
        "ko",
        "나일강",
        "나일강은 아프리카에서 가장 긴 강으로 길이는 약 6,650킬로미터이다. 이집트를 지나 지중해로 흘러든다.",
    ),
    (
        "en",
        "Congo River",
        "The Congo is the second longest river in Africa, shorter only than the Nile, and the deepest river known.",
    ),
]
LANGUAGES = {"en": 12801, "de": 9120, "zh": 4410, "ar": 3087, "ja": 2950, "hi": 1204, "ko": 950, "th": 811, "he": 64}
_HOSTILE_HITS = [
    ("en", HOSTILE, HOSTILE, {"source": HOSTILE, "url": "javascript:window.hacked=1", HOSTILE: "key"}),
    ("en", BIDI, f"{BIDI} " * 3, {"note": BIDI}),
    (
        "de",
        "",
        "Donaudampfschifffahrtsgesellschaft" * 40,
        {"long": "x" * 5000, "url": "https://example.org/" + "y" * 900},
    ),
    ('"><script>', "no language", "Its language is no language at all. عربي", {}),
    ("xx", "unknown", "שלום: the text says where it starts", {}),
    ("und", "nobody said", "مرحبا بالعالم", {"year": 1999, "checked": True, "share": 0.25}),
]


def _hit(rank: int, language: str, title: str, text: str, metadata: dict[str, Any]) -> dict[str, Any]:
    fields = {"title": title, "text": text, "metadata": metadata}
    return {"id": f"{language}-{rank}", "score": round(0.91 - 0.037 * rank, 6), "language": language, **fields}


@dataclass
class FakeService:
    """Answers by what is asked; see `answer`.

    Attributes:
      requests: every search that arrived, as JSON.
      paths: what was asked for, as (method, path).
      needs_key: whether `KEY` must come along.
      ready: whether `GET /info` answers.
      max_k: most passages per query.
      hold: while cleared, questions with the word "slow" wait.
    """

    languages: dict[str, int] = field(default_factory=lambda: dict(LANGUAGES))
    needs_key: bool = False
    ready: bool = True
    max_k: int = 100
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[tuple[str, str]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        query = request["query"]
        if "broken" in query:
            return 503, _error(f"the encoder is <b>out of memory</b>; {query!r} was not answered")
        if "bare" in query:
            return 500, {}
        if "refused" in query:
            return 422, _error("the query is refused")
        if "slow" in query:
            self.hold.wait(20)
        hits = [
            _hit(rank, *passage, {"source": "made up", "year": 2020 + rank % 5})
            for rank, passage in enumerate(_PASSAGES * 20)
        ]
        if "hostile" in query:
            hits = [_hit(rank, *hit) for rank, hit in enumerate(_HOSTILE_HITS)]
        if "nothing" in query:
            hits = []
        wanted = request.get("languages", self.languages)
        kept: list[dict[str, Any]] = []
        for hit in hits:
            many = sum(one["language"] == hit["language"] for one in kept)
            if ("hostile" in query or hit["language"] in wanted) and many < request.get("per_language", 10**9):
                kept.append(hit)
        if request.get("calibrate"):
            kept = [hit | {"score": hit["score"] - 0.8} for hit in kept]
        missing = [1] if "degraded" in query else []
        hits = kept[: request["k"]]
        return 200, {"hits": hits, "took_ms": 33.6, "degraded": bool(missing), "missing_shards": missing}

    def info(self) -> dict[str, Any]:
        size = sum(self.languages.values())
        limits = {"max_k": self.max_k}
        return {"model": "mini", "dim": 384, "passages": size, "languages": self.languages, "writable": False} | {
            "limits": limits
        }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None}}


def policy(page: str) -> str:
    """The strictest Content-Security-Policy the page works under: its one style and one script, by their hashes."""

    def hashed(tag: str) -> str:
        inner = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(inner) == 1, f"{len(inner)} <{tag}> elements; expected one"
        return f"'sha256-{base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {hashed('style')}; script-src {hashed('script')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


@contextmanager
def serving(service: FakeService) -> Iterator[FakeService]:
    """Serves it on a free port of the loopback; `service.url` is where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.paths.append(("GET", self.path))
            if self.path == "/":
                page = PAGE.read_text(encoding="utf-8")
                self._send(200, page.encode(), "text/html; charset=utf-8", policy(page))
            elif self.path == "/info" and not self._refused():
                if service.ready:
                    self._json(200, service.info())
                else:
                    self._json(503, _error("the service is warming up; try again in a minute"))
            elif self.path != "/info":
                self._json(404, _error(f"there is no {self.path}"))

        def do_POST(self) -> None:
            service.paths.append(("POST", self.path))
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._refused():
                service.requests.append(request)
                self._json(*service.answer(request))

        def _refused(self) -> bool:
            refused = service.needs_key and self.headers["Authorization"] != f"Bearer {KEY}"
            if refused:
                given = "is wrong" if self.headers["Authorization"] else "is missing"
                self._json(401, _error(f"the API key {given}"))
            return refused

        def _json(self, status: int, body: dict[str, Any]) -> None:
            self._send(status, json.dumps(body).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str, csp: str = "") -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                if csp:
                    self.send_header("Content-Security-Policy", csp)
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                pass  # the page lost interest

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield service
    finally:
        service.hold.set()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":  # to look at the page: python -m tests.serve.fake_service
    with serving(FakeService()) as running:
        print(running.url)
        time.sleep(10**6)
