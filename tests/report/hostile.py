"""A tiny run whose captions and addresses attack whoever shows them, with images for every kind of sample."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.crawl import danqing
from tests.site import serve

HOST = "http://img.example.test"
OWNED = "owned"  # what an attack that works leaves in the page
CHINESE = "红色的汽车停在山路旁边"

Attacks = Callable[[str], list[str]]


def attacks(beacon: str) -> list[str]:
    """Return captions; `beacon` is an address that nobody may ask for."""
    return [
        f"<script>document.title='{OWNED}'</script>",
        f"\"><img src={beacon}?a onerror=document.title='{OWNED}'>",
        f"</p></li></ul><iframe src='{beacon}?b'></iframe>",
        f"<style>body{{background:url({beacon}?c)}}</style>",
        f"<svg onload=document.title='{OWNED}'>",
        f"<meta http-equiv=refresh content='0;url={beacon}?d'>",
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp;",
        "{{ 7 * 7 }}{% raw %}{{ state }}",
        "photo\u202egpj.exe\u2066 \u200f",
        "\x1b]0;title\x07 \x00 \u2028 \U000e0041",
        "-->]]><!--",
    ]


def addresses() -> list[str]:
    """Return image addresses that attack."""
    return [
        f"javascript:document.title='{OWNED}'",
        f"{HOST}/\"onmouseover=\"document.title='{OWNED}'",
        f"{HOST}/<script>document.title='{OWNED}'</script>.jpg",
        f"{HOST}/'><svg onload=document.title='{OWNED}'>.jpg",
    ]


def _picture(seed: int) -> bytes:
    """Return a sharp PNG of coloured blocks, far from those of other seeds."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return _png(np.kron(blocks, np.ones((10, 10, 1), np.uint8)))


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def pictures() -> dict[str, bytes]:
    """Return the site's images by name; `same` is nearly `a`, `flat` and `cut` are dropped by the image steps."""
    first = np.asarray(Image.open(io.BytesIO(_picture(1)))).copy()
    first[:4, :4] = 0
    images = {name: _picture(seed) for seed, name in enumerate("abcdefghijkl", 1)}
    flat, small = np.full((160, 160, 3), 90, np.uint8), np.zeros((20, 160, 3), np.uint8)
    return images | {
        "same": _png(first),
        "flat": _png(flat),
        "small": _png(small),
        "cut": images["b"][: len(images["b"]) // 2],
    }


def make(folder: Path, until: str | None = None, **options: Any) -> Path:
    """Run the pipeline on two input files, with other sections of the configuration, and return the run folder."""
    folder.mkdir(exist_ok=True)
    images = pictures()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    site = {f"{HOST}/{name}": {"file": name, "type": "image/png"} for name in images}
    with serve(site, folder) as server:
        _inputs(folder, f"http://{server.address}/beacon")
        config = folder / "run.config.yaml"
        config.write_text(yaml.safe_dump(_config(folder, server.address) | options))
        danqing("run", config, *(["--until", until] if until else []))
    return folder / "run"


def _inputs(folder: Path, beacon: str) -> None:
    captions = attacks(beacon)
    good = [(f"{HOST}/{name}", f"{CHINESE}{text}") for name, text in zip("abcdefghijkl", captions, strict=False)]
    good += [(f"{HOST}/{name}", f"{CHINESE}{name}") for name in ("same", "flat", "small", "cut", "gone")]
    bad = [(url, CHINESE) for url in addresses()] + [(f"{HOST}/x{i}", text) for i, text in enumerate(captions)]
    for number, rows in enumerate((good + bad, [*good[:3], (f"{HOST}/a", f"{CHINESE}again")])):
        lines = [json.dumps({"url": url, "text": text}) + "\n" for url, text in rows]
        (folder / f"{number}.jsonl").write_text("".join(lines))


def _config(folder: Path, address: str) -> dict[str, Any]:
    return {
        "run_dir": str(folder / "run"),
        "input": {"kind": "table", "paths": [str(folder / "*.jsonl")], "files_per_shard": 1},
        "batches": 2,
        "source": {"language": "any", "max_chars": 200, "blacklist": None},
        "text": {"min_chinese": None, "min_content": 2, "min_nouns": None, "lexicon": None},
        "fetch": {"resolve": {"*.example.test": address}},
        "image": {"min_entropy": None},
        "align": None,
        "executor": {"kind": "inline"},
    }
