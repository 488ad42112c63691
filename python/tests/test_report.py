"""The report shows every arm, stands alone as one file, and takes broken runs with a clear word."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from loci.report import main
from loci.runs import load_reads

from loci import figures

PYTHON = Path(__file__).resolve().parent.parent


def images(page: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r"src=\"data:image/[a-z+]+;base64,([^\"]+)\"", page)]


def test_an_experiment_becomes_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    out = synthetic.write_experiment(tmp_path / "demo")
    command = [sys.executable, "-m", "loci.report", str(out)]
    result = subprocess.run(command, cwd=PYTHON, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"report: {out / 'report.html'}\n")
    page = (out / "report.html").read_text()
    arms = list(synthetic.ARMS)
    assert re.findall(r"</span>([\w-]+)</td><td>2</td>", page) == [*arms[:4], "memory-calibrated", "base-equal-time"]
    assert "At equal training tokens" in page
    assert "At equal training time: base-equal-time trained for as long as memory-calibrated" in page
    assert "At the same training time, memory-calibrated is 0.1 nats better." in page
    for fact in ("Made-up CPU", "2026-11-29T08:20:00Z", "torch 2.13.0", "training bytes 4,000,000", "model.layers"):
        assert fact in page
    pictures = images(page)
    assert [data.startswith(b"\x89PNG") for data in pictures] == [False] * 5 + [True] * 2
    assert all(b"<svg" in data for data in pictures[:5])
    assert not re.search(r"<script|https?://|src=\"(?!data:)", page)


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    out = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1), synthetic.row_reads())
    for name in ("a.html", "b.html"):
        assert main([str(out), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    rows = [("base", 1, 4.0), ("base", 2, 5.0), ("memory", 2, 4.5), ("memory", 3, 1.0)]
    for arm, seed, _ in rows:
        synthetic.write_run(tmp_path / arm / f"seed-{seed}", synthetic.records(arm, seed, steps=20, evaluations=2))
    summary = [{"arm": arm, "seed": seed, "measures": {"loss": loss}} for arm, seed, loss in rows]
    (tmp_path / "summary.json").write_text(json.dumps({"measures": synthetic.MEASURES, "runs": summary}))
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "4.500<small>4.000 to 5.000</small>" in page
    assert "&minus;0.500" in page  # seed 2 alone is common to both


def test_baselines_stand_below_the_arms(tmp_path: Path) -> None:
    out = synthetic.write_experiment(tmp_path / "out")
    assert main([str(out)]) == 0
    page = (out / "report.html").read_text()
    row = re.search(r"<tr><td><span[^>]*></span>counted bigrams</td><td>2</td>(.*?)</tr>", page)
    assert row is not None
    assert "5.821" in row[1]  # the mean of seeds 1 and 2
    assert page.index("counted bigrams") > page.index("memory-calibrated")
    summary = out / "summary.json"
    record = json.loads(summary.read_text())
    for strange in (None, 3, "text", [3], [{}], [{"name": 1, "measures": 2}]):
        record["runs"][0]["baselines"] = strange
        summary.write_text(json.dumps(record))
        assert main([str(out)]) == 0


def test_a_run_directory_alone_is_enough(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "memory/seed-7", synthetic.records("memory", 7), synthetic.row_reads(1000))
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "</span>memory</td><td>1</td>" in page
    assert "memory, layer 1, seed 7" in page


def test_equal_arms_of_two_folders_stay_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        synthetic.write_run(tmp_path / name / "base/seed-1", synthetic.records("base", 1))
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(page)]) == 0
    assert f"{tmp_path / 'one'}: base" in page.read_text()
    assert f"{tmp_path / 'two'}: base" in page.read_text()


def test_runs_evaluated_only_at_their_end_show_their_training(tmp_path: Path) -> None:
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"memory/seed-{seed}", synthetic.records("memory", seed, evaluations=1))
    assert main([str(tmp_path)]) == 0
    loss, _, usage, kl, *_ = images((tmp_path / "report.html").read_text())
    assert b"diamonds: validation" in loss
    assert min(len(usage), len(kl)) > 10_000  # curves, not a point


def test_every_seed_has_a_line(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        synthetic.write_run(tmp_path / f"base/seed-{seed}", synthetic.records("base", seed))
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    loss = images(page)[0].decode()
    colour = figures.COLOURS[0].lower()
    lines = re.findall(rf'<path d="[^"]*" clip-path="[^"]*" style="fill: none; stroke: {colour}', loss)
    assert len(lines) == 3 + 3 + 1  # training, validation, and the mean
    assert "(3 seeds)" in loss and figures.SEEDS_HINT in page


def test_a_log_nested_too_deeply_is_a_line_that_cannot_be_read(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("base", 1))
    with (run / "metrics.jsonl").open("a") as log:
        log.write("[" * 200_000 + "\n")
    assert main([str(run)]) == 0
    assert "1 line of metrics.jsonl could not be read" in (run / "report.html").read_text()


def test_arms_that_start_from_others_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [("base", 4.0), ("wide", 3.5), ("base-late", 3.0), ("side-late", 2.75)]
    for arm, _ in rows:
        synthetic.write_run(tmp_path / arm / "seed-1", synthetic.records(arm, 1, steps=20, evaluations=2))
    listed = [
        {"arm": arm, "seed": 1, "measures": {"loss": loss}} | ({"starts_from": "base"} if "late" in arm else {})
        for arm, loss in rows
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"measures": synthetic.MEASURES, "runs": listed}))
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    first, late = page.split("from the weights of base</h3>")
    assert re.findall(r"</span>([\w-]+)</td><td>1</td>", first) == ["base", "wide"]
    assert re.findall(r"</span>([\w-]+)</td><td>1</td>", late) == ["base-late", "side-late"]
    assert "against<br>base-late" in late and "&minus;0.250" in late


def test_arms_that_go_on_stand_with_those_of_drawn_weights(tmp_path: Path) -> None:
    rows = [("half", 4.0, 400), ("more", 3.5, 600), ("drawn", 3.0, 1000)]
    for arm, _, _ in rows:
        synthetic.write_run(tmp_path / arm / "seed-1", synthetic.records(arm, 1, steps=20, evaluations=2))
    listed = [
        {"arm": arm, "seed": 1, "units": units, "measures": {"loss": loss}}
        | ({"starts_from": "half", "units_before": 400} if arm == "more" else {})
        for arm, loss, units in rows
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"measures": synthetic.MEASURES, "runs": listed}))
    assert main([str(tmp_path)]) == 0
    equal, before = (tmp_path / "report.html").read_text().split("<h3>What others go on from</h3>")
    assert re.findall(r"</span>([\w-]+)</td><td>1</td>", equal) == ["more", "drawn"]
    assert re.findall(r"</span>([\w-]+)</td><td>1</td>", before) == ["half"]
    assert equal.count("<td>1 k</td>") == 2


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"run-\xff")
    run = synthetic.write_run(tmp_path / name, synthetic.records("base", 1))
    out = os.fsdecode(b"page-\xfe.html")
    command = [sys.executable, "-m", "loci.report", str(run), "--out", str(tmp_path / out)]
    result = subprocess.run(command, cwd=PYTHON, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "page-\ufffd.html" in result.stdout.decode()
    assert "run-\ufffd" in (tmp_path / out).read_text()
    missing = subprocess.run(
        [*command[:3], str(tmp_path / name) + "-none"], cwd=PYTHON, capture_output=True, check=False
    )
    assert missing.returncode == 3 and "run-\ufffd-none" in missing.stderr.decode()


def test_reads_of_a_table_in_parts_are_in_the_order_of_rows(tmp_path: Path) -> None:
    reads = synthetic.row_reads(rows=1200)
    for part in range(12):
        synthetic.write_reads(tmp_path, reads[100 * part : 100 * part + 100], f".part-{part + 1}-of-12")
    notes: list[str] = []
    assert np.array_equal(load_reads(tmp_path, notes)["1"], reads)
    assert notes == []


def test_names_are_escaped(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "<b>arm", synthetic.records("base", 1))
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "&lt;b&gt;arm" in page and "<b>arm" not in page


def test_a_killed_run_is_shown_with_what_it_has(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1)[:-1])
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-30] + b"\xff\xfe")
    (run / "step-200").mkdir()
    (run / "step-200/task.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    (run / "step-200/counters.m.safetensors").touch()
    (run / "step-oops").mkdir()
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "1 line of metrics.jsonl could not be read" in page
    assert "step-200/task.safetensors could not be read" in page
    assert "the run has not ended" in page


def test_numbers_that_went_bad_are_named_not_drawn(tmp_path: Path) -> None:
    rows = synthetic.records("memory", 1)
    for row in rows[150:]:
        row |= {"loss": float("nan"), "details": {"memories": [{"layer": 1, "usage": None, "kl": float("inf")}]}}
    run = synthetic.write_run(tmp_path / "run", rows)
    assert main([str(run)]) == 0
    assert re.search(r"the loss went bad at step \d+", (run / "report.html").read_text())


@pytest.mark.parametrize(
    "rows",
    [
        [{"kind": "train", "step": 1, "units": 10, "seconds": 1.0, "loss": 5.0}],
        [{"kind": "train"}, {"kind": "evaluation"}, {"kind": "start"}, {"kind": "strange"}, {}],
        [
            {"kind": "start", "measures": [3, {"name": 5}, {"name": "x", "digits": 1e300}], "data": [], "cpu": {}},
            {"kind": "evaluation", "step": "x", "units": [], "measures": True, "details": {"memories": "none"}},
        ],
        [
            {
                "kind": "evaluation",
                "units": 5,
                "seconds": 0,
                "measures": {"loss": 4.0},
                "details": {"memories": [3, {}, {"layer": 2, "kl": 1e308}], "seeds": [1, {}], "solved": {"of": "x"}},
            }
        ],
        [{"kind": "train", "step": s, "units": s, "seconds": s, "loss": 10.0**s} for s in range(300)],
        [{"kind": "train", "step": 10**400, "units": 1, "loss": 1.0}],
    ],
    ids=["one step", "no keys", "wrong types", "one evaluation", "huge numbers", "a huge integer"],
)
def test_strange_records_do_not_stop_it(tmp_path: Path, rows: list[dict]) -> None:
    run = synthetic.write_run(tmp_path / "run", rows)
    assert main([str(run)]) == 0


@pytest.mark.parametrize("counts", [[0], [5], [0] * 12, [1, 0, 7], list(range(31))], ids=str)
def test_any_number_of_rows_has_a_picture(tmp_path: Path, counts: list[int]) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1), np.array(counts))
    assert main([str(run)]) == 0
    assert images((run / "report.html").read_text())[-1].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "RUN must hold metrics.jsonl or ARM/seed-N/metrics.jsonl"),
        (lambda folder: (folder / "metrics.jsonl").write_text(""), "RUN must have logged a step"),
        (lambda folder: (folder / "metrics.jsonl").write_bytes(b"\0\xff" * 50), "RUN must have logged a step"),
        (lambda folder: folder.rmdir(), "RUN must be a folder"),
        (lambda folder: (folder.rmdir(), folder.write_text("x")), "RUN must be a folder"),
        (lambda folder: write_with_summary(folder, "[1, 2]"), "summary.json must be an object with a list"),
        (lambda folder: write_with_summary(folder, '{"runs"'), "summary.json must be JSON"),
        (lambda folder: write_with_summary(folder, "[" * 200_000), "summary.json must be JSON"),
    ],
    ids=[
        "empty folder",
        "empty log",
        "binary log",
        "missing",
        "a file",
        "foreign summary",
        "half a summary",
        "a deep summary",
    ],
)
def test_bad_input_is_one_line_and_exit_3(
    tmp_path: Path, capsys: pytest.CaptureFixture, prepare: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    prepare(folder)
    assert main([str(folder)]) == 3
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run/report.html").exists()


def write_with_summary(folder: Path, summary: str) -> None:
    synthetic.write_run(folder / "base/seed-1", synthetic.records("base", 1))
    (folder / "summary.json").write_text(summary)


@pytest.mark.parametrize("out", ["file/page.html", "folder", "loop", "n" * 300], ids=lambda name: name[:20])
def test_a_page_that_cannot_be_there_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture, out: str) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("base", 1))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    assert main([str(run), "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("report: cannot write") and len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_event_files_that_cannot_be_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("base", 1, steps=20, evaluations=2))
    (tmp_path / "file").write_text("")
    assert main([str(run), "--tensorboard", str(tmp_path / "file")]) == 2
    assert f"report: cannot write {tmp_path / 'file'}: " in capsys.readouterr().err


def test_out_may_be_a_link_a_pipe_or_a_device(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("base", 1, steps=20, evaluations=2))
    (tmp_path / "link.html").symlink_to("page.html")
    for _ in range(2):  # the target is made, then replaced
        assert main([str(run), "--out", str(tmp_path / "link.html")]) == 0
    assert (tmp_path / "link.html").is_symlink() and "Loci report" in (tmp_path / "page.html").read_text()
    assert main([str(run), "--out", "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    command = [sys.executable, "-m", "loci.report", str(run), "--out", "/dev/stdout"]
    piped = subprocess.run(command, cwd=PYTHON, capture_output=True, text=True, check=False)
    assert piped.returncode == 0 and piped.stdout.rstrip().endswith("</html>")
    with (tmp_path / "collected").open("w") as file:  # a regular file behind /dev/stdout goes on where it is
        file.write("first\n")
        file.flush()
        assert subprocess.run(command, cwd=PYTHON, stdout=file, check=False).returncode == 0
    assert re.fullmatch("first\n<!doctype html>.*</html>\n", (tmp_path / "collected").read_text(), re.DOTALL)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("base", 1, steps=20, evaluations=2))
    assert main([str(run), "--out", "/dev/full"]) == 4
    error = capsys.readouterr().err
    assert "No space left" in error and len(error.splitlines()) == 1
    limited = f"ulimit -f 8; exec {sys.executable} -m loci.report {run} --out {tmp_path}/page.html"
    result = subprocess.run(["bash", "-c", limited], cwd=PYTHON, capture_output=True, text=True, check=False)
    assert result.returncode == 4, result.stderr
    assert result.stderr.startswith("report: cannot write") and len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_reads_what_was_asked_for(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = synthetic.write_run(tmp_path / "memory/seed-1", synthetic.records("memory", 1, steps=20, evaluations=2))
    assert main([str(run), "--tensorboard", str(tmp_path / "events")]) == 0
    events = EventAccumulator(str(tmp_path / "events/memory/seed-1")).Reload()
    assert [event.step for event in events.Scalars("validation/loss")] == [10, 20]
    assert len(events.Scalars("train/loss")) == 20
    assert "memory 1/usage" in events.Tags()["scalars"]
