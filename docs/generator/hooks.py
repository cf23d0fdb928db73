"""Hooks of mkdocs: links to files of the repository outside of docs/ become plain text on the site."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_unused: Any) -> str:
    """Keep the text of a link whose target lies outside of docs/, and drop its address."""
    docs, folder = Path(config["docs_dir"]).resolve(), Path(page.file.abs_src_path).parent

    def keep_inside(link: re.Match[str]) -> str:
        inside = (folder / link[2]).resolve().is_relative_to(docs)
        return link[0] if inside else link[1]

    return _LINK.sub(keep_inside, markdown)
