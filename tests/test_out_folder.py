"""One OUT for many runs: several processes at once, data that change meanwhile, files that somebody broke."""

import json
import shutil

import pytest
from command_line import RECIPE, assert_refused, loci, make_place, start, train

FOUR_ARMS = RECIPE.split("[[arms]]")[0] + "".join(f'[[arms]]\nname = "arm-{i}"\n' for i in range(4))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


@pytest.fixture(scope="module")
def trained(place):
    out = place / "trained"
    result = train(place, out, "--arm", "base", "--quiet")
    assert result.returncode == 0, result.stderr
    return out


def changed_text(place, folder):
    shutil.copytree(place / "text", folder)
    with (folder / "part0/0.txt").open("a") as file:
        file.write("and one more line\n" * 3)
    return folder


def test_processes_that_train_into_one_folder_all_appear_in_the_summary(place, tmp_path):
    (tmp_path / "recipe.toml").write_text(FOUR_ARMS)
    arguments = ["train", tmp_path / "recipe.toml", "--data", place / "text", "--out", tmp_path / "out", "--quiet"]
    arguments += ["--set", "train.steps=1"]
    processes = [start(place, *arguments, "--arm", f"arm-{i}") for i in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert {run["arm"] for run in summary["runs"]} == {f"arm-{i}" for i in range(4)}


@pytest.mark.parametrize("text", ["[", "[]", '{"runs": 3}', "[" * 200_000], ids=["half", "a list", "a number", "deep"])
def test_a_broken_summary_is_told_before_anything_is_trained(place, tmp_path, text):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text(text)
    assert_refused(train(place, out, "--quiet"), 3, "summary.json", "must hold results of runs")
    assert [path.name for path in out.iterdir()] == ["summary.json"]


def test_a_summary_of_another_task_is_told_before_anything_is_trained(place, trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    summary = json.loads((trained / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"task": "ram"}))
    assert_refused(train(place, out, "--quiet"), 2, "summary.json", "must be of the task language_model", "got ram")
    assert [path.name for path in out.iterdir()] == ["summary.json"]


def test_an_arm_is_not_compared_with_one_of_other_data(place, trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    text = changed_text(place, tmp_path / "text")
    train_more = ["train", place / "recipe.toml", "--data", text, "--out", out, "--quiet"]
    for more in (["--arm", "memory"], ["--resume"], ["--resume", "--arm", "base"]):
        result = loci(place, *train_more, *more)
        assert_refused(result, 3, "the data must be those that", "base/seed-0 was trained on", "got ")
    assert [run["arm"] for run in json.loads((out / "summary.json").read_text())["runs"]] == ["base"]
