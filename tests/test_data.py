"""The data of a run, from outside: what is said of it, a cache that cannot be, and folders that change meanwhile."""

import pytest
from command_line import RECIPE, make_place, train

BPE = RECIPE.replace('kind = "bytes"', 'kind = "bpe"\nvocabulary = 600')


@pytest.fixture
def place(tmp_path_factory):
    return make_place(tmp_path_factory, BPE)


def notices(result):
    """What `train` says of the data: neither the plan, nor progress, nor a run's result."""
    starts = ("left out: ", "without a cache", "the tokenizer has ")
    return [line for line in result.stderr.splitlines() if line.startswith(starts) or " became U+FFFD" in line]


def test_notices_come_with_a_warm_cache_too(place, tmp_path):
    (place / "text" / "picture.png").write_bytes(b"\x89PNG\0\0")
    (place / "text" / "latin.txt").write_bytes("café naïve".encode("latin-1") * 20)
    said = []
    for out in ("cold", "warm"):
        result = train(place, tmp_path / out, "--arm", "base")
        assert result.returncode == 0, result.stderr
        said.append(notices(result))
    assert any("left out: 1 binary files (picture.png)" in line for line in said[0])
    assert any("40 places are not valid text and became U+FFFD, in 1 file (latin.txt: 40)" in line for line in said[0])
    assert said[1] == said[0]


def test_no_cache_is_no_obstacle(place, tmp_path):
    result = train(place, tmp_path / "out", "--arm", "base", "--cache", place / "recipe.toml" / "cache")
    assert result.returncode == 0, result.stderr
    assert [line for line in notices(result) if line.startswith("without a cache")]
