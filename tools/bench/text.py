"""Captions a second of the stage text on one core, as a markdown row: `python tools/bench/text.py [CAPTIONS.jsonl]`.

The file holds one JSON object a line with the caption in `alt` or `text`; without it captions are made here.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa

from toolkit.config.text import Text
from toolkit.text.stage import Tools, judge, measure, tools
from toolkit.text.words import count, ranked

PAIRS = 20_000
MADE = [
    f"{place}{thing}{end}"
    for place in ("博物馆里的", "野外拍摄的", "關於", "【台北】2024新款 ", "Ritual ")
    for thing in ("陶瓷杯", "威尔士史宾格犬", "拖拉机", "不锈钢减压阀实验双表头", "墨绿家居流行色")
    for end in ("展示照片", "的精美壁纸素材", "！图片[19]-全民淘😀", " 第22张-寻梦生活")
]


def captions(path: str | None) -> list[str]:
    """Return 20,000 captions: those of the file, or made ones, over and over."""
    if path is None:
        return list(islice(cycle(MADE), PAIRS))
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return list(islice(cycle([row.get("alt") or row.get("text") or "" for row in rows]), PAIRS))


def words_speed(texts: list[str]) -> tuple[float, Tools]:
    """Return the captions a second of the stage words, and the tools that text then needs."""
    start = time.process_time()
    table = ranked(count(texts))
    return len(texts) / (time.process_time() - start), tools(Text(), table)


def text_speed(texts: list[str], kit: Tools) -> float:
    """Return the captions a second of the stage text: measuring and judging."""
    measure(texts[:100], Text(), kit)  # models and dictionaries are loaded on first use
    start = time.process_time()
    ids = pa.chunked_array([pa.array([""] * len(texts), pa.string())])
    judge(ids, measure(texts, Text(), kit), Text())
    return len(texts) / (time.process_time() - start)


def main() -> None:
    """Print the row."""
    texts = captions(sys.argv[1] if len(sys.argv) > 1 else None)
    count(texts[:100])
    words, kit = words_speed(texts)
    print("| stage | captions | captions/s/core |\n| --- | ---: | ---: |")
    print(f"| words | {len(texts):,} | {words:,.0f} |")
    print(f"| text | {len(texts):,} | {text_speed(texts, kit):,.0f} |")


if __name__ == "__main__":
    main()
