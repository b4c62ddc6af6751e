"""docs/protocol.md says what the code does."""

from __future__ import annotations

from avec.protocol import messages
from avec.protocol.codec import HEADER, MAGIC
from protocol.page import PAGE, with_tables

TEXT = PAGE.read_text("utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    advice = "the tables of docs/protocol.md are old: PYTHONPATH=src python tests/protocol/page.py writes them anew"
    assert with_tables(TEXT) == TEXT, advice


def test_the_page_is_about_this_version() -> None:
    assert f"version {messages.VERSION}" in TEXT.splitlines()[0]


def test_the_header_is_as_drawn() -> None:
    assert f"{HEADER.size} bytes" in TEXT
    assert f'"{MAGIC.decode()}"' in TEXT
