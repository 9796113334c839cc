"""HTTP answers with HTML become pages as a browser reads them."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter

from tests.source.crawlfiles import address, response
from toolkit.source import html, warc
from toolkit.source.page import Image, Note, Page

PAGE = '<html><head><base href="/img/"></head><body><img src=a.jpg alt="图 &amp; 文"><img alt=x><IMG SRC=b.jpg>'
EXPECTED = [Image("a.jpg", "图 & 文"), Image(None, "x"), Image("b.jpg", None)]


def read(record: bytes) -> Page | Note | None:
    (found,) = warc.records(io.BytesIO(record), pytest.fail)
    event = html.read(found.offset, found.headers(), found.body)
    return html.page(event, html.document(event.block)) if isinstance(event, html.Answer) else event


def images(record: bytes) -> list[Image]:
    page = read(record)
    assert isinstance(page, Page)
    return page.images


def test_a_page_has_its_address_base_and_images_in_order():
    page = read(response(1, PAGE.encode()))
    assert isinstance(page, Page)
    assert (page.url, page.base, page.images) == (address(1), "/img/", EXPECTED)


@pytest.mark.parametrize("status", ["404 Not Found", "301 Moved", "206 Partial", "500 x"])
def test_only_status_200_is_a_page(status):
    assert read(response(1, PAGE.encode(), status=status)) is None


def test_only_html_is_a_page():
    assert read(response(1, PAGE.encode(), "Content-Type: application/pdf")) is None
    assert read(response(1, b"%PDF-1.4", "Server: x")) is None
    assert images(response(1, PAGE.encode(), "Server: x")) == images(response(1, PAGE.encode()))


def chunked(body: bytes) -> bytes:
    return (
        b"".join(b"%x\r\n%s\r\n" % (len(body[n : n + 50]), body[n : n + 50]) for n in range(0, len(body), 50))
        + b"0\r\n\r\n"
    )


CODED = {
    "gzip": gzip.compress(PAGE.encode()),
    "deflate": zlib.compress(PAGE.encode()),
    "zstd": zstandard.compress(PAGE.encode()),
    "gzip, false label": PAGE.encode(),
}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "gzip, false label"])
@pytest.mark.parametrize("transfer", [False, True])
def test_codings_are_taken_off(coding, transfer):
    body = CODED[coding]
    headers = ["Content-Type: text/html; charset=utf-8", f"Content-Encoding: {coding.partition(',')[0]}"]
    if transfer:
        headers.append("Transfer-Encoding: chunked")
        body = chunked(body)
    assert images(response(1, body, *headers)) == EXPECTED


def test_brotli_is_taken_off():
    packed = io.BytesIO()
    writer = BrotliWriter(packed)
    writer.write(PAGE.encode())
    writer.close()
    headers = ["Content-Type: text/html; charset=utf-8", "Content-Encoding: br"]
    assert images(response(1, packed.getvalue(), *headers)) == EXPECTED


def test_a_chunked_label_on_a_joined_body_is_passed_over():
    headers = ["Content-Type: text/html; charset=utf-8", "Transfer-Encoding: chunked"]
    assert images(response(1, PAGE.encode(), *headers)) == EXPECTED


def test_a_page_bomb_is_refused():
    bomb = gzip.compress(bytes(html.MAX_PAGE + 1), 1)
    with pytest.raises(html.PageError, match="over the limit"):
        read(response(1, bomb, "Content-Type: text/html", "Content-Encoding: gzip"))


ALT = "国际汽车展览会的照片"


@pytest.mark.parametrize(
    ("codec", "header", "meta"),
    [
        ("utf-8", "", ""),
        ("utf-8-sig", "; charset=gbk", ""),
        ("gb18030", "; charset=GB2312", ""),
        ("gb18030", "; charset=gb2312", '<meta charset="utf-8">'),
        ("gbk", "", '<meta http-equiv="Content-Type" content="text/html; charset=gb2312">'),
        ("gb18030", "", ""),
        ("big5hkscs", "; charset=Big5", ""),
        ("utf-8", "; charset=nonsense", "<meta charset=utf-8>"),
        ("utf-8", "", "<meta charset=utf-16>"),
        ("utf-16", "", ""),
    ],
)
def test_charsets_as_browsers_find_them(codec, header, meta):
    text = ALT if codec != "big5hkscs" else "國際汽車展覽會"
    body = f"<html><head>{meta}</head><img src=a.jpg alt={text}>".encode(codec)
    assert images(response(1, body, f"Content-Type: text/html{header}")) == [Image("a.jpg", text)]


def test_characters_beyond_gb2312_survive_its_label():
    """Browsers read gb2312 as gb18030; Python's gb2312 would lose them."""
    body = "<img src=a.jpg alt=镕㐀>".encode("gb18030")
    assert images(response(1, body, "Content-Type: text/html; charset=gb2312")) == [Image("a.jpg", "镕㐀")]


def test_western_bytes_without_a_label_are_windows_1252():
    assert images(response(1, "<img src=a alt='café du coin'>".encode("cp1252"), "Content-Type: text/html")) == [
        Image("a", "café du coin")
    ]
