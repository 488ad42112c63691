"""Help texts: every example in every one of them is run, in a folder where the names in the examples exist."""

import re
import shlex
import shutil
import subprocess

import pytest
from command_line import LOCI, RECIPE, loci, write_text
from test_images import RECIPE as IMAGE_RECIPE
from test_images import RECONSTRUCTION, write_images
from test_packed import RECIPE as BINARY_RECIPE
from test_ram import RECIPE as RAM_RECIPE
from test_texts import CLASSIFY, write_reviews


def verbs():
    text = subprocess.run([LOCI, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (\w+)  ", text.split("Subcommands:", 1)[1], re.MULTILINE)


def help_of(verb):
    return subprocess.run([LOCI, verb, "--help"], capture_output=True, text=True, check=True).stdout


def examples_of(verb):
    """The lines that begin with "  loci ", without what is said about them behind three spaces."""
    lines = [line.strip() for line in help_of(verb).splitlines() if line.startswith("  loci ")]
    return [re.split(r"\s{3,}", line)[0] for line in lines]


EXAMPLES = [(verb, example) for verb in verbs() for example in examples_of(verb)]


@pytest.fixture(scope="session")
def walk(tmp_path_factory):
    """What the examples name: files, recipes/ (small ones under the names of large ones), out/ with trained runs."""
    folder = tmp_path_factory.mktemp("walk")
    write_text(folder / "DIR")
    (folder / "part.txt").write_text("the cat sat")
    (folder / "capitals.tsv").write_text("the cat\t sat\n")
    small = RECIPE.replace("steps = 12", "tokens = 768")
    (folder / "RECIPE").write_text(small)
    for name, text in (("language-model-demo", small), ("ram-access", RAM_RECIPE)):
        (folder / "recipes" / name).mkdir(parents=True)
        (folder / "recipes" / name / "small.toml").write_text(text)
    longer = ["--set", "train.tokens=6400", "--set", "train.checkpoint_every=50"]
    for arguments in (["train", "RECIPE", "--data", "DIR", "--out", "out", "--arm", "memory", *longer],
                      ["train", "recipes/ram-access/small.toml", "--out", "ram"]):  # fmt: skip
        result = loci(folder, *arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
    (folder / "ram/main").rename(folder / "out/main")
    write_images(folder / "photos")
    for name, text in (("side", IMAGE_RECIPE), ("vq", RECONSTRUCTION), ("binary", BINARY_RECIPE)):
        (folder / "images.toml").write_text(text)
        result = loci(folder, "train", "images.toml", "--data", "photos", "--out", name, cwd=folder)
        assert result.returncode == 0, result.stderr
        (folder / name / "main").rename(folder / "out" / name)
    write_reviews(folder / "texts")
    (folder / "reviews.tsv").write_text("text\naxa\n")
    (folder / "texts.toml").write_text(CLASSIFY)
    result = loci(folder, "train", "texts.toml", "--data", "texts", "--out", "classes", cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "classes/main").rename(folder / "out/classes")
    return folder


@pytest.mark.parametrize(("verb", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_the_example_runs(walk, tmp_path, verb, example):
    folder = tmp_path / "walk"
    without = shutil.ignore_patterns("out") if verb == "train" else None
    shutil.copytree(walk, folder, ignore=without)
    command, _, target = example.partition(" > ")
    words = shlex.split(command)
    assert words[:2] == ["loci", verb]
    if verb == "bench":  # it takes minutes: a bad level is told after the options were read
        result = loci(walk, *words[1:], cwd=folder, variables={"LOCI_CPU_LEVEL": "none"})
        assert result.returncode == 2 and "LOCI_CPU_LEVEL" in result.stderr
        return
    result = loci(walk, *words[1:], cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout or "--out" in words
    assert not target or (folder / target).parent.is_dir()


@pytest.mark.parametrize("verb", verbs())
def test_a_help_text_has_examples_and_no_leftovers(verb):
    text = help_of(verb)
    assert examples_of(verb)
    assert "{false}" not in text, text
    assert max(len(line) for line in text.splitlines()) <= 160
