"""Templates of other folders extend the report's own, and mistakes in them are loud."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from mlp_mixer.report.html import render_html, write_html


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    folder.mkdir()
    text = (
        '{% extends "base.html.j2" %}{% block body %}<p>{{ words }}</p>{% endblock %}'
    )
    (folder / "mine.html.j2").write_text(text)
    return folder


def test_a_template_elsewhere_has_head_and_style_of_the_report(
    templates: Path, tmp_path: Path
) -> None:
    path = write_html(
        tmp_path / "page.html",
        "mine.html.j2",
        templates=templates,
        title="A < B",
        words="C & D",
    )
    page = path.read_text(encoding="utf-8")
    assert "<title>A &lt; B</title>" in page
    assert "<p>C &amp; D</p>" in page
    assert "default-src 'none'" in page
    assert "--paper:" in page


def test_a_value_that_nobody_gave_is_an_error(templates: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="words"):
        render_html("mine.html.j2", templates=templates, title="")


def test_a_template_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateNotFound, match="mine.html.j2"):
        render_html("mine.html.j2", title="")


def test_names_that_are_no_text_are_shown_escaped(templates: Path) -> None:
    page = render_html(
        "mine.html.j2", templates=templates, title="", words="\udcff.png"
    )
    assert r"<p>\udcff.png</p>" in page
