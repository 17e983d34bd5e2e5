"""What GitHub's Markdown allows and Python-Markdown does not: a list right below a line of text, without an empty line between.

Documents and docstrings here write it so, since it reads well as plain text.
"""

from __future__ import annotations

import re

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

NAME = "markdown_dialect:Dialect"
ITEM = re.compile(r" {0,3}([-*]|\d+\.) ")
FENCE = re.compile(r"\s*(`{3,}|~{3,})")


class ListsBelowText(Preprocessor):
    """Put the empty line in. A list's own lines, fences and indented code stay as they are."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines of a text, with an empty one before every list that follows a line of prose."""
        done: list[str] = []
        fence, in_list = "", False
        for line in lines:
            mark = FENCE.match(line)
            if fence:
                fence = "" if mark and mark[1].startswith(fence) else fence
            elif mark:
                fence = mark[1]
            elif ITEM.match(line):
                if done and done[-1].strip() and not in_list:
                    done.append("")
                in_list = True
            elif not line.strip() or not in_list:
                in_list = False
            done.append(line)
        return done


class Dialect(Extension):
    """The extension, for `markdown_extensions`."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Run before fences are taken out, which happens at 25."""
        md.preprocessors.register(ListsBelowText(md), "lists-below-text", 28)
