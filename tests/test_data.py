"""The data of a run, from outside: what is said of it, a cache that cannot be, and folders that change meanwhile."""

import json

import pytest
from command_line import RECIPE, make_place, start, train, train_arguments

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


def test_a_small_text_makes_a_small_model(place, tmp_path):
    result = train(place, tmp_path / "out", "--arm", "base", "--set", "tokenizer.vocabulary=1000000")
    assert result.returncode == 0, result.stderr
    (notice,) = set(notices(result))
    assert "fewer than tokenizer.vocabulary = 1000000" in notice
    tokens = int(notice.split()[3])
    lines = (tmp_path / "out/base/seed-0/metrics.jsonl").read_text().splitlines()
    (begin,) = [line for line in map(json.loads, lines) if line["kind"] == "start"]
    assert 0 < begin["parameters_dense"] < 1000 * tokens


def test_no_cache_is_no_obstacle(place, tmp_path):
    result = train(place, tmp_path / "out", "--arm", "base", "--cache", place / "recipe.toml" / "cache")
    assert result.returncode == 0, result.stderr
    assert [line for line in notices(result) if line.startswith("without a cache")]


def test_runs_keep_the_data_that_were_opened(place, tmp_path):
    """3 KB of new words come while the first of two arms trains."""
    out = tmp_path / "out"
    process = start(place, *train_arguments(place, out, "--arm", "base", "--arm", "memory"))
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("[1/2] base seed 0: "):
            break
    with (place / "text/part0/0.txt").open("a") as text:
        text.write(" ".join(f"word{i}" for i in range(400)))
    said += process.stderr.read()
    assert process.wait() == 0, said
    assert (out / "summary.json").exists()
    resumed = train(place, out, "--arm", "base", "--set", "seeds=[1]", "--resume")
    assert resumed.returncode == 3
    assert "1 file changed (part0/0.txt)" in resumed.stderr


def test_a_run_that_goes_on_keeps_its_tokenizer(place, tmp_path):
    assert train(place, tmp_path / "out", "--arm", "base").returncode == 0
    (tmp_path / "out/base/seed-0/result.json").unlink()
    cache = tmp_path / "cache"
    resumed = train(place, tmp_path / "out", "--arm", "base", "--resume", "--cache", cache)
    assert resumed.returncode == 0, resumed.stderr
    assert list(cache.glob("tokens-*")) and not list(cache.glob("tokenizer-*"))
