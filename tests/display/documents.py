"""What every document must be: well-formed, static, complete in itself."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "<script>alert(1)<\u2215script>\"'><img src=x onerror=alert(1)>&amp;\n--> ]]> <style>*{color:red}"
VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Fails on tags that do not match, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def classes(self, name: str) -> int:
        """How many elements are of a class."""
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


def check(text: str) -> Checker:
    """Well-formed, static, and complete in itself."""
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in checker.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "use", "foreignobject", "animate", "set"}
        assert not any(name.startswith("on") for name in attributes)
        # Several drawings share a page.
        assert "id" not in attributes
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "data:image/png").startswith("data:image/png")
    return checker
