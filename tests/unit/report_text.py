"""What a reader sees of a page: its text, and how large the text of its figures is."""

import re

PHONE_PX = 358
"""Width of a figure on a phone 390 px wide."""


def text_of(page: str) -> str:
    """The words of a page, or of a part of one, with plain spaces."""
    page = re.sub(r'<span class="mark">(.*?)</span>', r"\1", page)  # within a sentence, where no space is seen
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).replace(
        "\N{NO-BREAK SPACE}", " "
    )


def with_styles(page: str) -> str:
    """`page` with each class of its figures as the style that the page's stylesheet has for it, and without those rules."""
    rule = re.compile(r"^\.(s\d+):not\(#_\) \{ (.*) \}\n", re.MULTILINE)
    styles = dict(rule.findall(page))
    assert len(styles) == len(rule.findall(page)), "a class is stated twice"
    return re.sub(
        r'(<[^<>]*) class="(s\d+)"', lambda found: f'{found[1]} style="{styles[found[2]]}"', rule.sub("", page)
    )


def smallest_text_px(page: str) -> float:
    """CSS pixels of the smallest text in any figure of `page`, on a phone, where each is as wide as the screen."""
    sizes = []
    for drawing in re.findall(r'<svg[^>]*role="img".*?</svg>', with_styles(page), flags=re.DOTALL):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawing)[1])  # type: ignore[index]
        fonts = re.findall(r"<(?:text|tspan)[^>]*?font(?:-size)?: (?:\d+ )?([\d.]+)px", drawing)
        assert fonts, drawing[:200]
        sizes += [float(points) * PHONE_PX / width for points in fonts]
    return min(sizes)
