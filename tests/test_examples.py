"""Pages show programs of examples/ as they are compiled."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[str]:
    return [part.split("```", 1)[0] for part in page.split("```cpp\n")[1:]]


@pytest.mark.parametrize(
    ("example", "page"),
    [("finetune_rows", "product-key-memory"), ("non_local", "non-local"), ("side_memory", "vision-memory")],
)
def test_the_page_shows_the_example(example: str, page: str) -> None:
    source = (ROOT / f"examples/{example}.cpp").read_text()
    begin = source.index("begins here.\n") + len("begins here.\n")
    lines = source[begin : source.index("  // The snippet ends here.")].splitlines()
    snippet = "\n".join(line.removeprefix("  ") for line in lines).strip() + "\n"
    assert snippet in blocks((ROOT / f"docs/{page}.md").read_text())
