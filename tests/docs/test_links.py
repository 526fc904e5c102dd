"""Tests of the links between README and the pages of docs/; the internet is not used."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.blocks import PAGES, ROOT, name_page, remove_blocks

LINKING = [*PAGES, ROOT / "CHANGELOG.md"]


@cache
def list_anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", remove_blocks(page.read_text("utf-8")), re.MULTILINE)
    texts = [re.sub(r"\[(.+?)\]\(.+?\)|[`*]", r"\1", heading) for heading in headings]
    return frozenset(_make_anchor(text) for text in texts)


def _make_anchor(heading: str) -> str:
    """Return the anchor that the built page has, which is GitHub's if no dashes are repeated."""
    kept = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


@pytest.mark.parametrize("page", LINKING, ids=name_page)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Each relative link names a file, and an anchor that its page has."""
    text = re.sub(r"`[^`\n]*`", "", remove_blocks(page.read_text("utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in list_anchors(target), link


def test_pages_of_the_site_link_inside_it() -> None:
    """Pages of docs/ do not link to files outside, which the built site does not have."""
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s:#]+)[)#]", remove_blocks(page.read_text("utf-8"))):
            assert (page.parent / link).resolve().is_relative_to(docs), f"{page.name}: {link}"
