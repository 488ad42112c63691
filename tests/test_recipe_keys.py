"""`loci train --keys`, docs/recipe-keys.md, and how settings of the command line meet the arms of a recipe."""

import json
import pathlib
import re
import sys

import pytest
from command_line import RECIPE, ROOT, assert_refused, loci, make_place, train

sys.path.insert(0, str(ROOT / "tools"))
import recipe_keys

TASKS = [
    "binary_network",
    "few_shot",
    "image_classification",
    "language_model",
    "meetings",
    "minutes",
    "ode_images",
    "ode_points",
    "pair_shapes",
    "ram",
    "random_labels",
    "reconstruction",
    "reel_network",
    "relocalisation",
    "shapes_keypoints",
    "skeleton_classification",
    "stories",
    "text_classification",
    "video_classification",
    "views",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


def plan(place, *arguments):
    result = loci(place, "train", place / "recipe.toml", "--dry-run", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return {arm["arm"]: arm for arm in json.loads(result.stdout)["arms"]}


def test_the_page_of_keys_is_current(place):
    keys = loci(place, "train", "--keys").stdout
    assert [task for task, _ in recipe_keys.blocks(keys)] == TASKS
    assert pathlib.Path(recipe_keys.PAGE).read_text() == recipe_keys.page(keys), "run tools/recipe_keys.py"


@pytest.mark.parametrize("task", TASKS)
def test_the_keys_of_a_task_are_a_recipe(place, tmp_path, task):
    result = loci(place, "train", "--keys", task)
    assert result.returncode == 0, result.stderr
    (tmp_path / "keys.toml").write_text(result.stdout)
    dry = loci(place, "train", tmp_path / "keys.toml", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    # Every key has its help before it and its type behind it.
    lines = result.stdout.splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"(# )?\w+ = ", line)]
    assert len(keys) > 30
    for i in keys:
        assert lines[i - 1].startswith("# ") and len(lines[i - 1]) > 8, lines[i]
        assert re.search(r"  # (an? |one of |true or false)", lines[i]), lines[i]


def test_keys_of_an_unknown_task(place):
    assert_refused(
        loci(place, "train", "--keys", "vision"),
        2,
        f"one of {', '.join(TASKS)}, got vision",
    )
    assert_refused(loci(place, "train"), 2, "RECIPE is required")


def test_a_setting_wins_over_the_arms(place):
    assert plan(place, "--set", "model.memory.rows=4e2")["memory"]["parameters_table"] == 400 * 16
    only = plan(place, "--arm", "memory", "--set", "model.memory.rows=256")
    assert list(only) == ["memory"] and only["memory"]["parameters_table"] == 256 * 16
    added = plan(place, "--set", "base:model.memory.layers=[0]", "--set", "base:model.memory.rows=100")
    assert added["base"]["parameters_table"] == 100 * 16 and added["memory"]["parameters_table"] == 64 * 16


def test_a_length_in_tokens_replaces_one_in_steps(place):
    assert plan(place, "--set", "train.tokens=64e2")["base"]["steps"] == 100
    assert plan(place, "--set", "train.steps=7")["base"]["steps"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arm", "base", "--set", "model.memory.rows=256"], ["model.memory.rows must have an effect", "base"]),
        (["--set", "bas:model.width=32"], ["the arm must be one of base, memory, base-equal-time", "got bas"]),
        (["--set", "model.width=32", "--set", "model.width=64"], ["must be set once", "model.width twice"]),
        (["--set", "optimizer.momentum=0.5"], ["optimizer.momentum must be left out", 'optimizer.kind is "sgd"']),
        (["--set", "train.steps=5", "--set", "train.tokens=9"], ["train.tokens must be left out"]),
        (["--set", "optimizer.learning_rate=inf"], ["finite number", "got inf"]),
        (["--set", "tokenizer.vocabulary=1000"], ["tokenizer.vocabulary", 'tokenizer.kind is "bpe"']),
        (["--seed", "99"], ["the seed must be one of the recipe's 0", "got 99"]),
        (["--seed", "0", "--seed", "0"], ["once", "0 twice"]),
        (["--arm", "base", "--arm", "base"], ["once", "base twice"]),
    ],
)
def test_what_has_no_effect_is_refused(place, tmp_path, arguments, words):
    result = train(place, tmp_path / "out", *arguments)
    assert_refused(result, 2, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("override", ['{"seeds" = [1]}', '{"task" = "ram"}', '{"optimizer.beta3" = 1}'])
def test_what_an_arm_cannot_change_is_refused(place, tmp_path, override):
    (tmp_path / "r.toml").write_text(RECIPE + f'\n[[arms]]\nname = "odd"\nset = {override}\n')
    assert_refused(loci(place, "train", tmp_path / "r.toml", "--dry-run"), 2)


@pytest.mark.parametrize(
    "setting",
    ["model.heads=9223372036854775807", "model.context=9223372036854775807", "model.width=9e15", "model.layers=1e12",
     "train.batch=9223372036854775807", "train.tokens=9223372036854775807", "memory:model.memory.top_k=1e15",
     "memory:model.memory.key_width=1e15", "memory:model.memory.value_width=1e15"],
)  # fmt: skip
def test_sizes_beyond_reason_are_refused(place, tmp_path, setting):
    assert_refused(train(place, tmp_path / "out", "--set", setting), 2, setting.split(":")[-1].split("=")[0])


def test_a_ram_recipe_has_no_optimizer_section(place, tmp_path):
    (tmp_path / "r.toml").write_text('task = "ram"\n[optimizer]\nlearning_rate = 1.0\n')
    assert_refused(loci(place, "train", tmp_path / "r.toml", "--dry-run"), 2, "unknown key optimizer")


def test_the_recipes_of_the_project_can_be_read(place):
    for recipe in sorted((ROOT / "recipes").glob("*/*.toml")):
        result = loci(place, "train", recipe, "--dry-run", "--json")
        assert result.returncode == 0, f"{recipe}: {result.stderr}"
