"""What the demo's crawl holds: blocks of 200 pairs, laid out on pages, each with the answer that its address gives.

Promise: a block is a function of the seed and its number, so the crawl streams and any block can be made alone.
Pictures are drawn for the first 100 blocks only; later blocks repeat their files under addresses of their own, which
makes every such pair a planted near-duplicate, and keeps a crawl of any size below half a gigabyte of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from toolkit.demo import captions
from toolkit.demo.dice import Dice, word
from toolkit.demo.kinds import BLOCK, BY_NAME, DEDUP, KINDS, Kind
from toolkit.demo.pictures import FILES
from toolkit.demo.scenes import Scene, scene

POOL_BLOCKS = 100
RARE_PAIRS = 2_000  # below this a word that occurs once is not rare enough for text.entropy: 14.4 / 25,000 bits
IMAGE_HOSTS, PAGE_HOSTS = 40, 24
BLACKLIST = ["ads.example.test", "spam.example.test"]

# Files that are no pictures: what the server sends instead.
PAGE_FILE, BIG_FILE, ROBOTS_FILE, ROBOTS_PART_FILE = "page.html", "big.jpg", "robots.txt", "robots-part.txt"
BIG_BYTES = 21_000_000  # above fetch.max_mb's default of 20

# Addresses that no crawler should follow, and that pages of the web do hold.
HOSTILE = [
    "javascript:alert('{}')",
    "file:///etc/passwd?{}",
    "ftp://img0.example.test/{}.jpg",
    "blob:http://img0.example.test/{}",
    "mailto:{}@example.test",
    "about:blank#{}",
]
PRIVATE = [
    "http://127.0.0.1:9/{}.jpg",
    "http://169.254.169.254/latest/meta-data/{}.jpg",
    "http://10.0.0.8/{}.jpg",
    "http://192.168.1.1/{}.jpg",
    "http://[::1]/{}.jpg",
    "http://172.16.3.4:8080/{}.jpg",
    "http://localhost/{}.jpg",
]
ODD = [
    "http://2130706433/{}.jpg",
    "http://0x7f000001/{}.jpg",
    "http://127.1/{}.jpg",
    "http://0177.0.0.1/{}.jpg",
    "http://img1.example.test@127.0.0.1/{}.jpg",
    "http://[::ffff:127.0.0.1]/{}.jpg",
]
INSIDE = [
    "http://127.0.0.1:{port}/inside.jpg",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]:{port}/inside.jpg",
    "http://10.1.2.3/inside.jpg",
]

# A small crawl's rare captions: they may fall to text.entropy or stay.
_UNSURE = replace(BY_NAME["rare"], optional=True)

Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One planted pair: its src and alt as the page has them, and what the truth says of it.

    `answers` are the addresses that the server has to know for it; `file` is None or the picture to be drawn: the
    file's name, its row in FILES, its scene.
    """

    kind: Kind
    url: str
    src: str
    alt: str
    group: str | None
    step: str | None
    expect: str
    answers: Sequence[tuple[str, Answer]] = ()
    file: tuple[str, str, Scene] | None = None


@dataclass(kw_only=True, slots=True)
class Page:
    """One page: its address, its language (ISO 639-3), how it is written, and its pairs in order."""

    number: int
    url: str
    language: str
    base: str | None
    charset: str
    annotated: bool
    key: str
    scene: Scene
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    """One place of a block: the kind that fills it, its number in the block, the picture, and its dice."""

    kind: Kind
    number: int
    picture: int
    scene: Scene
    dice: Dice


def pages(seed: int, pairs: int) -> Iterator[Page]:
    """Yield the pages of a crawl of this many pairs, in order."""
    for block in range(-(-pairs // BLOCK)):
        yield from _block(seed, block, min(BLOCK, pairs - block * BLOCK), pairs >= RARE_PAIRS)


def fixed_answers() -> list[tuple[str, Answer]]:
    """Return what the server answers besides the pairs: robots.txt of the two hosts that refuse us."""
    whole: Answer = {"file": ROBOTS_FILE, "status": 200, "type": "text/plain"}
    part: Answer = {"file": ROBOTS_PART_FILE, "status": 200, "type": "text/plain"}
    return [("http://robots.example.test/robots.txt", whole), ("http://img1.example.test/robots.txt", part)]


def fixed_files() -> list[tuple[str, bytes]]:
    """Return the files that the server sends and that are no pictures."""
    page = "<!DOCTYPE html><html><head><title>页面不存在</title></head><body><h1>找不到这张图片</h1></body></html>"
    return [
        (PAGE_FILE, page.encode()),
        (BIG_FILE, b"\xff\xd8\xff\xe0" + bytes(BIG_BYTES - 4)),
        (ROBOTS_FILE, b"User-agent: *\nDisallow: /\n"),
        (ROBOTS_PART_FILE, b"User-agent: *\nDisallow: /private/\n"),
    ]


def _block(seed: int, block: int, size: int, rare: bool) -> Iterator[Page]:
    slots = _slots(seed, block, size, rare)
    clean = [slot for slot in slots if slot.kind.name == "clean"]
    laid_out = _lay_out(seed, block, slots)
    made: dict[int, Pair] = {}
    for page, held in laid_out:
        for slot in held:
            if slot.kind.name != "repeat":
                made[slot.number] = _pair(seed, block, page, slot, clean)
    for page, held in laid_out:
        mine = {slot.number for slot in held}
        others = [made[slot.number] for slot in clean if slot.number not in mine]
        others = others or [made[slot.number] for slot in clean]
        page.pairs = [made.get(slot.number) or _repeat(others, slot) for slot in held]
        yield page


def _slots(seed: int, block: int, size: int, rare: bool) -> list[_Slot]:
    """Return the block's kinds in its own order; a clean one comes first, so that every copy has an original."""
    kinds = [kind for kind in KINDS for _ in range(kind.count)]
    pooled = block % POOL_BLOCKS
    Dice(seed, "block", pooled).shuffle(kinds)
    first = kinds.index(BY_NAME["clean"])
    kinds[0], kinds[first] = kinds[first], kinds[0]
    return [
        _Slot(
            kind=kind if rare or kind.name != "rare" else _UNSURE,
            number=number,
            picture=pooled * BLOCK + number,
            scene=scene(seed, pooled * BLOCK + number),
            dice=Dice(seed, "pair", block, number),
        )
        for number, kind in enumerate(kinds[:size])
    ]


def _lay_out(seed: int, block: int, slots: Sequence[_Slot]) -> list[tuple[Page, list[_Slot]]]:
    """Return the block's pages with their slots: 3 to 9 on Chinese pages, 2 to 4 on the others."""
    dice = Dice(seed, "pages", block)
    chunks: list[tuple[str, list[_Slot]]] = []
    for language in dict.fromkeys(kind.page for kind in KINDS):
        rest = [slot for slot in slots if slot.kind.page == language]
        while rest:
            size = dice.between(3, 9) if language == "zho" else dice.between(2, 4)
            chunks.append((language, rest[:size]))
            rest = rest[size:]
    dice.shuffle(chunks)
    return [(_page(seed, block * BLOCK + i, language, dice), held) for i, (language, held) in enumerate(chunks)]


def _page(seed: int, number: int, language: str, dice: Dice) -> Page:
    host = f"www{dice.below(PAGE_HOSTS)}.example.test" if language != "bad" else "www.spam.example.test"
    style = dice.below(12) if language == "zho" else 0
    folder = dice.pick(["photo", "album", "news", "gallery"])
    return Page(
        number=number,
        url=f"http://{host}/{folder}/{number}.html",
        language="zho" if language == "bad" else language,
        base=f"http://img{dice.below(IMAGE_HOSTS)}.example.test/{folder}/{number}/" if style == 1 else None,
        charset="gb18030" if style == 2 else "utf-8",
        annotated=style != 3,
        key=f"{seed}/{number}",
        scene=scene(seed, number),
    )


def _pair(seed: int, block: int, page: Page, slot: _Slot, clean: Sequence[_Slot]) -> Pair:
    name = word(15, seed, "url", block, slot.number)
    src = _src(page, slot, name)
    url = urljoin(page.base or page.url, src)
    original = _original(seed, block, slot, clean) if slot.kind.name.startswith("dup_") else slot
    answers, file = _answers(slot, original, clean, url, name)
    copied = block >= POOL_BLOCKS and slot.kind.step in (None, "align.band")
    fetched = slot.kind.step in (None, DEDUP, "align.band") or slot.kind.name == "rare"
    return Pair(
        kind=slot.kind,
        url=url,
        src=src,
        alt=_alt(seed, block, slot, original),
        group=f"p{original.picture:06d}" if fetched else None,
        step=DEDUP if copied else None if slot.kind is _UNSURE else slot.kind.step,
        expect=BY_NAME["dup_bytes"].expect if copied else slot.kind.expect,
        answers=answers,
        file=file if block < POOL_BLOCKS else None,
    )


def _original(seed: int, block: int, slot: _Slot, clean: Sequence[_Slot]) -> _Slot:
    """Return what a copy is a copy of: mostly of the same block; one in four of the first, which may be in another
    batch. A later block asks the dice of the block whose files it repeats."""
    dice = Dice(seed, "original", block % POOL_BLOCKS, slot.number)
    far = block % POOL_BLOCKS > 0 and dice.below(4) == 0
    return dice.pick(_clean(seed, 0) if far else clean if block < POOL_BLOCKS else _clean(seed, block))


@lru_cache(maxsize=2)
def _clean(seed: int, block: int) -> list[_Slot]:
    """Return the clean slots of a whole block."""
    return [slot for slot in _slots(seed, block, BLOCK, True) if slot.kind.name == "clean"]


def _repeat(others: Sequence[Pair], slot: _Slot) -> Pair:
    """Return a second mention of a clean pair of another page, by its full address."""
    first = slot.dice.pick(others)
    kind = slot.kind
    return Pair(kind=kind, url=first.url, src=first.url, alt=first.alt, group=None, step=kind.step, expect=kind.expect)


# Kinds whose addresses say it all: the hosts are hostile, on the blacklist, or closed by robots.txt.
_ADDRESSES: dict[str, Sequence[str]] = {
    "hostile_url": HOSTILE,
    "private_address": PRIVATE,
    "odd_address": ODD,
    "bad_host": [f"http://img{n}.ads.example.test/{{}}.jpg" for n in range(9)],
    "robots": ["http://robots.example.test/{}.jpg", "http://img1.example.test/private/{}.jpg"],
}


def _src(page: Page, slot: _Slot, name: str) -> str:
    """Return the src attribute: special for some kinds, else absolute or relative as the page writes it."""
    dice, kind = slot.dice, slot.kind.name
    if kind in _ADDRESSES:
        return dice.pick(_ADDRESSES[kind]).format(name)
    file = f"{name}.{FILES[kind][0] if kind in FILES else 'jpg'}"
    if page.base is not None:
        return file
    way, host = dice.below(10), f"img{dice.below(IMAGE_HOSTS)}.example.test/{name[:2]}"
    if way == 0:
        return f"../images/{file}"
    return f"//{host}/{file}" if way == 1 else f"http://{host}/{file}"


def _alt(seed: int, block: int, slot: _Slot, original: _Slot) -> str:
    """Return the alt attribute: a caption of the picture, or what the kind plants in its place."""
    dice, kind = slot.dice, slot.kind.name
    texts: dict[str, Callable[[Scene, Dice], str]] = {
        "traditional": captions.traditional,
        "symbols": captions.decorated,
        "long": captions.long,
        "short": captions.short,
        "english": captions.english,
        "english_page": captions.english,
        "japanese": captions.japanese,
        "japanese_page": captions.japanese,
    }
    lists = {
        "emoji": captions.EMOJI,
        "stopwords": captions.STOPWORDS,
        "nounless": captions.NOUNLESS,
        "unsafe": captions.UNSAFE,
    }
    if kind in lists:
        return dice.pick(lists[kind])
    if kind == "filename":
        return captions.filename(dice)
    if kind == "rare":
        return captions.rare(block)
    if kind == "mismatch":
        return captions.chinese(scene(seed, slot.picture + 5), dice)
    return texts.get(kind, captions.chinese)(original.scene, dice)


def _answers(
    slot: _Slot, original: _Slot, clean: Sequence[_Slot], url: str, name: str
) -> tuple[list[tuple[str, Answer]], tuple[str, str, Scene] | None]:
    """Return what the server says under the pair's address, and the picture that it needs."""
    if not url.startswith("http") or not (urlsplit(url).hostname or "").endswith(".example.test"):
        return [], None
    if not _may_arrive(slot.kind):
        return [(url, _refusal(slot, clean[0], url))], None
    drawn = slot.kind.name if slot.kind.name in FILES else "original"
    file = _file(original, drawn)
    return _served(slot, url, name, file), (file, drawn, original.scene)


def _served(slot: _Slot, url: str, name: str, file: str) -> list[tuple[str, Answer]]:
    """Return the answers that lead to a picture, straight or by a redirect."""
    dice = slot.dice
    if slot.kind.name == "redirect":
        return [(url, {"status": dice.pick([301, 302]), "location_file": file})]
    if slot.kind.name == "moved":
        there = f"http://img{dice.below(IMAGE_HOSTS)}.example.test/moved/{name}.jpg"
        return [(url, {"status": dice.pick([302, 307, 308]), "location": there}), (there, _sends(file))]
    return [(url, _sends(file))]


def _refusal(slot: _Slot, stand_in: _Slot, url: str) -> Answer:
    """Return the answer for a pair that should never arrive; where nobody should ask, some picture."""
    dice, kind = slot.dice, slot.kind.name
    if kind in _REFUSALS:
        return _REFUSALS[kind](dice, url)
    answer = _sends(_file(stand_in, "original"))
    if kind == "opt_out":
        answer["headers"] = {"X-Robots-Tag": dice.pick(["noai", "noimageai", "noindex", "none"])}
    return answer


def _may_arrive(kind: Kind) -> bool:
    """Return whether the pair's picture may come as far as the image stage."""
    stage = "" if kind.step is None else kind.step.split(".")[0]
    return stage not in ("source", "text", "fetch") or kind.name == "rare"


def _file(slot: _Slot, drawn: str) -> str:
    suffix = "" if drawn == "original" else f"-{drawn}"
    return f"p{slot.picture:06d}{suffix}.{FILES[drawn][0]}"


def _sends(file: str) -> Answer:
    return {"file": file, "status": 200, "type": "image/png" if file.endswith(".png") else "image/jpeg"}


def _error(statuses: Sequence[int], dice: Dice, url: str) -> Answer:
    return {"status": dice.pick(statuses), "type": "text/html", "file": PAGE_FILE}


def _html(dice: Dice, url: str) -> Answer:
    return {"status": 200, "type": dice.pick(["text/html", "image/jpeg"]), "file": PAGE_FILE}


def _loop(dice: Dice, url: str) -> Answer:
    return {"status": 302, "location": url}


def _inside(dice: Dice, url: str) -> Answer:
    return {"status": 302, "location": dice.pick(INSIDE)}


def _big(dice: Dice, url: str) -> Answer:
    return {"status": 200, "type": "image/jpeg", "file": BIG_FILE}


_REFUSALS: dict[str, Callable[[Dice, str], Answer]] = {
    "not_found": partial(_error, [404, 404, 410, 403]),
    "server_error": partial(_error, [500, 503]),
    "redirect_loop": _loop,
    "redirect_inside": _inside,
    "too_large": _big,
    "html": _html,
}
