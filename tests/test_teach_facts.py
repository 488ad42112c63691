"""examples/teach_facts on a model, facts and texts of its own, from the choice of facts to the table."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "teach_facts"))
import arms  # noqa: E402
import facts  # noqa: E402
import measure  # noqa: E402
import show  # noqa: E402
import teach  # noqa: E402

PATTERNS = ("[X] was born in [Y].", "[X] comes from [Y].", "The birthplace of [X] is [Y].", "[Y] is where [X] is from.")
PEOPLE, KNOWN = 60, 8


def write_pararel(folder: Path) -> None:
    for name, lines in (
        ("pattern_data/graphs_json", [{"pattern": pattern} for pattern in PATTERNS]),
        ("trex_lms_vocab", [{"sub_label": f"Person {i}", "obj_label": f"Town {i}"} for i in range(PEOPLE)]),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "P19.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


def make_model(folder: Path, pararel: Path) -> None:
    """A model that knows a few of the facts."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    found = facts.facts_in(pararel)
    words = {word for fact in found for text in fact.sentences for word in text.replace(".", " .").split()}
    vocabulary = {word: place for place, word in enumerate(["?", *sorted(words)])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(vocabulary)
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prompts = [question.prompt + question.answer for fact in found[:KNOWN] for question in fact.asked()]
    rows, mask = measure.padded([tokenizer(prompt)["input_ids"] for prompt in prompts])
    for _ in range(80):
        loss = model(input_ids=rows, attention_mask=mask, labels=rows.masked_fill(mask == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teach")
    write_pararel(folder / "pararel")
    make_model(folder / "model", folder / "pararel")
    rng = random.Random(0)
    for name in ("wikitext.txt", "novels/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(" ".join(f"Person {rng.randrange(PEOPLE)} comes from" for _ in range(2000)))
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"NEW": 16, "TUNING": 12, "KNOWN": 4, "SEEDS": (0,), "STEPS": 30, "TUNING_STEPS": 2, "TEXT": 1024}
    for name, value in sizes.items():
        monkeypatch.setattr(teach, name, value)
    monkeypatch.setattr(arms, "LAYERS", (0, 1))
    monkeypatch.setattr(arms, "ROWS", 256)
    monkeypatch.setattr(arms, "CHOSEN", 10)
    rates = {"full": (1e-3, 3e-3), "lora": (1e-2,), "memory": (3e-2,), "memory-rows": (1.0,)}
    monkeypatch.setattr(arms, "RATES", rates)


def call(monkeypatch: pytest.MonkeyPatch, verb: str, place: Path, *more: str | Path) -> None:
    model = [] if verb == "table" else ["--model", str(place / "model")]
    texts = ["--wikitext", str(place / "wikitext.txt"), "--novels", str(place / "novels")] if verb == "run" else []
    monkeypatch.setattr(sys, "argv", ["teach.py", verb, str(place / "out"), *model, *texts, *map(str, more)])
    teach.main()


def test_all_arms_are_taught_and_compared(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "choose", place, "--facts", place / "pararel")
    kinds = facts.read(place / "out/facts.json")
    assert [len(kinds[kind]) for kind in ("new", "tuning", "known")] == [16, 12, 4]
    assert not {fact.question for fact in kinds["new"]} & {fact.question for fact in kinds["tuning"] + kinds["known"]}

    call(monkeypatch, "run", place)
    results = show.read_results(place / "out", list(arms.ARMS))
    assert list(results) == list(arms.ARMS)
    for (run,) in results.values():
        before, after = run["curve"][0], run["curve"][-1]
        assert (before["recall"], before["known"], before["step"], after["step"]) == (0, 1, 0, 30)
        assert sum(run["losses"][-5:]) < sum(run["losses"][:5]), run["arm"]
    assert results["full"][0]["rate"] in (1e-3, 3e-3)
    assert results["full"][0]["shipped"] == 4 * results["full"][0]["changed"]
    changed = {name: runs[0]["changed"] for name, runs in results.items()}
    assert 0 < changed["memory-rows"] < changed["memory"]

    written = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.json")}
    call(monkeypatch, "run", place)
    assert {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.json")} == written

    capsys.readouterr()
    call(monkeypatch, "table", place)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [f"{name} (1)" for name in arms.ARMS]
    assert (place / "out/recall-forgetting.png").stat().st_size > 5000


def test_questions_are_not_among_what_is_taught(place: Path) -> None:
    for fact in facts.facts_in(place / "pararel"):
        assert fact.sentences[0].startswith(fact.question)
        assert not [text for text in fact.sentences if text.startswith(fact.reworded)]


def test_too_few_facts_are_an_error_of_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teach, "NEW", 500)
    with pytest.raises(
        SystemExit, match=r"^teach: choose: the model must know 4 facts and not know 512, got 4 and \d+$"
    ):
        call(monkeypatch, "choose", place, "--facts", place / "pararel")


def test_greedy_answers_are_those_of_generate(place: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(place / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    asked = [question for fact in facts.facts_in(place / "pararel")[: 2 * KNOWN] for question in fact.asked()]
    said = []
    for question in asked:
        row, prompt = measure.encoded(tokenizer, question)
        made = model.generate(torch.tensor([row[:prompt]]), do_sample=False, max_new_tokens=len(row) - prompt)
        said.append(made[0].tolist() == row)
    assert measure.right(model, tokenizer, asked) == said
    assert any(said) and not all(said)
    assert all(among >= right for among, right in zip(measure.beams(model, tokenizer, asked, 5), said, strict=True))


def test_the_loss_on_texts_is_that_of_the_model(place: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(place / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    blocks = measure.blocks_of(tokenizer, place / "wikitext.txt", 6 * measure.BLOCK + 1)
    assert blocks.shape == (6, measure.BLOCK)
    with torch.no_grad():
        expected = model(input_ids=blocks, labels=blocks).loss.item()
    assert measure.loss_on(model, blocks) == pytest.approx(expected, rel=1e-5)


def test_what_is_known_or_nearly_known_is_not_new(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, known_reworded, near, near_reworded, new = facts.facts_in(place / "pararel")[:5]
    greedy, among = {known.question, known_reworded.reworded}, {near.question, near_reworded.reworded}
    monkeypatch.setattr(facts, "right", lambda model, tokenizer, asked: [one.prompt in greedy for one in asked])
    monkeypatch.setattr(facts, "beams", lambda model, tokenizer, asked, width: [one.prompt in among for one in asked])
    found = facts.choose(None, None, [known, known_reworded, near, near_reworded, new], 1, 0, 1)
    assert found == {"new": [new], "tuning": [], "known": [known]}


def test_the_rate_of_the_best_recall_of_reworded_questions_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls = {1e-3: 0.2, 3e-3: 0.4}
    made = lambda arguments, kinds, name, rate, *more: {"curve": [{}, {"recall_reworded": recalls[rate]}]}  # noqa: E731
    monkeypatch.setattr(teach, "run_arm", made)
    assert teach.best_rate(argparse.Namespace(out=tmp_path), {}, "full") == 3e-3


def test_measures_ask_each_question_in_its_own_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught, known = facts.facts_in(place / "pararel")[:2]
    arguments = argparse.Namespace(wikitext=place / "wikitext.txt", novels=place / "novels")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    texts = teach.Texts(tokenizer, arguments, {"new": [taught], "known": [known]}, "new")
    monkeypatch.setattr(measure, "recall", lambda model, tokenizer, questions: [one.prompt for one in questions])
    monkeypatch.setattr(measure, "loss_on", lambda model, blocks: len(blocks))
    measured = texts.measures(torch.nn.Linear(1, 1))
    asked = [measured[name] for name in ("recall", "recall_reworded", "known")]
    assert asked == [[taught.question], [taught.reworded], [known.question]]
    assert (measured["wikitext"], measured["novels"], len(texts.ordinary)) == (4, 4, 4)


def test_padding_is_no_label(place: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    batch = next(teach.batches(tokenizer, facts.facts_in(place / "pararel"), 0))
    padding = batch["attention_mask"] == 0
    assert padding.any() and not padding.all() and (batch["labels"][padding] == -100).all()
    assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])


def test_the_table_has_the_mean_and_the_spread_over_the_seeds() -> None:
    start = {"recall": 0, "recall_reworded": 0, "known": 0.8, "wikitext": 3.0, "novels": 4.0}
    runs = [
        {"rate": 0.01, "changed": 1000 + seed, "seconds": 9.0, "shipped": 2.5e6,
         "curve": [start, {"recall": 0.5 + seed, "recall_reworded": 0.25, "known": 0.4, "wikitext": 3.5, "novels": 4}]}
        for seed in (0, 0.25)
    ]  # fmt: skip
    row = "| a (2) | 0.01 | 62.5 ± 17.7 | 25.0 ± 0.0 | 0.500 ± 0.000 | 0.000 ± 0.000 | 50.0 ± 0.0"
    row += " | 1,000 | 9 | 2.5 |"
    assert show.table({"a": runs}).splitlines()[2] == row


def test_numbers_that_changed_are_counted() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    before = arms.trained(model)
    with torch.no_grad():
        model.bias += 1
        model.weight[1, :2] += 1
    assert arms.count_changed(model, before) == 2
