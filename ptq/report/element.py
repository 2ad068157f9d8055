"""Elements of an HTML page, built as a tree so that every text and attribute is escaped by the serializer."""

from __future__ import annotations

from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element with children in order; None is left out, text is text, never markup.

    ``class_`` is ``class``, an underscore in another name is a hyphen (``stroke_width``); None attributes are left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            key = name.rstrip("_") if name.endswith("_") else name.replace("_", "-")
            made.set(key, f"{value:.6g}" if isinstance(value, float) else _printable(str(value)))
    for child in children:
        if isinstance(child, str):
            _append_text(made, _printable(child))
        elif child is not None:
            made.append(child)
    return made


def serialize(root: Element) -> str:
    """The page as HTML. Text in ``style`` is written as it is, so it should come from this package only."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def _printable(text: str) -> str:
    """Without control characters and lone surrogates, which no page may hold."""
    return "".join(each if each.isprintable() or each in "\n\t " else "\N{REPLACEMENT CHARACTER}" for each in text)
