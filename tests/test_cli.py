"""The command: its help, its parsing, its errors, and what it lets through to a terminal."""

# ruff: noqa: F401, F811 (fixtures are imported, then asked for by name)

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from commands import (
    COMMAND,
    DATABASE,
    HOUSEHOLD,
    Refused,
    Run,
    answer,
    empty_directory,
    python,
    refused,
    rollout,
    run,
)
from hypothesis import given
from hypothesis import strategies as st

import trialgym
from trialgym.cli import VERBS, parse, printable

pytestmark = pytest.mark.usefixtures("empty_directory")


# Help.


def test_the_first_help_lists_every_verb(run: Run) -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{verb.help}$", out, re.MULTILINE)


def test_no_verb_at_all_shows_the_help_and_fails(run: Run) -> None:
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "commands:" in err


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"trialgym {trialgym.__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_and_explains_every_option(verb: str, run: Run) -> None:
    status, out, err = run(verb, "--help")
    assert (status, err) == (0, "")
    for example in VERBS[verb].examples:
        assert f"  {example}\n" in out
    bare = re.findall(r"^  (?:--)?[a-z_]+(?: [A-Z_]+)?$\n(?!  {10})", out, re.MULTILINE)
    assert not bare, "options without help"


@pytest.mark.parametrize(
    "example", [example for verb in VERBS.values() for example in verb.examples]
)
def test_every_example_can_be_parsed(example: str) -> None:
    program, verb, *words = shlex.split(example)
    assert program == "trialgym" and verb in VERBS
    if "--help" in words:
        with pytest.raises(SystemExit):
            parse(verb, words)
    else:
        parse(verb, words)


def test_an_algorithms_fields_are_options_of_train(run: Run) -> None:
    status, out, _ = run("train", "eto", "--help")
    assert status == 0
    for option in ("--beta", "--pairs.source", "--schedule.learning_rate"):
        assert option in out
    assert "Optimiser updates, whatever the epochs" in " ".join(out.split())


def test_help_and_envs_import_nothing_heavy() -> None:
    code = (
        "import sys; from trialgym.cli import main\n"
        "assert main(['--help']) == 0 and main(['--version']) == 0\n"
        "light = {'torch', 'jsonargparse', 'rich', 'sqlalchemy'} & set(sys.modules)\n"
        "assert main(['rollout', '--help']) == 0 and main(['envs', '--json']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(repr((light, heavy)) if light | heavy else 0)"
    )
    process = python(code)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


# Parsing.


def test_nested_options_of_any_depth_come_together() -> None:
    words = ["--out", "x", "--set.a.b.c", "1e-3", "--set.a.b.d=put", "--set.a.e", "false"]
    _, values = parse("loop", [*words, "--set", '{"rounds": 2}', "--set.f", "-1"])
    assert values["set"] == {
        "rounds": 2,
        "a": {"b": {"c": 0.001, "d": "put"}, "e": False},
        "f": -1,
    }


def test_an_algorithm_is_built_from_its_options() -> None:
    _, values = parse(
        "train",
        ["eto", "--policy", "p", "--demonstrations", "d", "--out", "o", "--beta", "0.5",
         "--pairs.source", "self", "--schedule.updates", "7"],
    )  # fmt: skip
    algorithm = values["algorithm"]
    assert (algorithm.beta, algorithm.pairs.source, algorithm.schedule.updates) == (0.5, "self", 7)
    assert algorithm.schedule.batch == type(algorithm)().schedule.batch


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rolout"], "did you mean `rollout`"),
        (["--jsn"], "unrecognized"),
        (["evaluate", HOUSEHOLD], "agent"),
        (["evaluate", HOUSEHOLD, "--agnt", "expert"], "unrecognized arguments: --agnt"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--count", "x"],
         "`count` is `x`; wanted int; see `trialgym evaluate --help`"),
        (["evaluate", "trialgym/Houshold-v0", "--agent", "expert"], f"did you mean `{HOUSEHOLD}`"),
        (["evaluate", HOUSEHOLD, "--agent", "exprt"], "did you mean `expert`"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "tets"], "did you mean `test`"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "test:5"], "SPLIT:START:END"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "test:5:5"], "START below END"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "test:0:9999999"], "ask for"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "test:0:3", "--count", "4"],
         "`test:0:3` has 3"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "train"], "no end"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", "no/such.jsonl"],
         "no/such.jsonl: no such file"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--count", "0"], "count"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--count", "3", "--samples", "0"], "samples"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--env_options.max_turn", "3"], "max_turn"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--env_options.max_turns"], "no value"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--env_options.max_turns", "few"],
         "option `max_turns` of `trialgym/Household-v0` is 'few'; wanted int"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--split", __file__], "option `tasks`"),
        (["evaluate", HOUSEHOLD, "--agent", "expert", "--agent_options.sed", "3"], "sed"),
        (["play", HOUSEHOLD, "--seed", "-1"], "seed -1; wanted a whole number from 0 up"),
        (["play", HOUSEHOLD, "--task", "household/test/x"], "household/<split>/<index>"),
        (["train", "bd"], "did you mean `bc`"),
        (["train", "bc", "--policy", "random", "--demonstrations", "d", "--out", "o"], "ranker"),
        (["train", "bc", "--policy", "ranker", "--demonstrations", "d", "--out", "o"],
         "d: no such store"),
        (["train", "bc", "--policy", "ranker", "--demonstrations", "d.jsonl", "--out", "o"],
         "d.jsonl: no such file"),
        (["train", "bc", "--policy", "ranker", "--out", "o"], "`--demonstrations`"),
        (["train", "eto", "--policy", "ranker", "--out", "o"], "`--explored` and `--experts`"),
        (["train", "bc", "--schedule.epochs", "many"], "`schedule.epochs` is `many`; wanted int"),
        (["export", "nowhere", "--out", "x.jsonl"], "no such store"),
        (["runs", "nowhere"], "nowhere: no such directory"),
        (["loop", "--preset", "lptop", "--out", "run"], "did you mean `laptop`"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(
    words: list[str], told: str, refused: Refused, run: Run
) -> None:
    if words[0].startswith("-"):  # argparse's own way for the few top-level options
        assert run(*words)[0] == 2
        return
    assert told in refused(*words)
    assert not Path("run").exists() and not Path("o").exists()


def test_a_malformed_benchmark_file_names_line_and_field(refused: Refused) -> None:
    Path("tasks.jsonl").write_text("{}\n")
    words = ["rollout", DATABASE, "--tasks", "tasks.jsonl", "--agent", "expert", "--out", "run"]
    told = refused(*words)
    assert "tasks.jsonl, line 1, field" in told
    Path("tasks.jsonl").write_text("{\n")
    assert "tasks.jsonl, line 1" in refused(*words)


def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    assert run(*rollout())[0] == 0
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run("export", "run", "--out", "x.parquet")
    assert status == 2
    assert "`pyarrow` is not installed; run `pip install 'trialgym[parquet]'`" in err
    process = python("import sys; sys.modules['torch'] = None\n" + COMMAND, "train", "bc", "--help")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "error: `torch` is not installed; run `pip install 'trialgym[train]'`\n"


def test_a_reader_who_leaves_early_is_no_error() -> None:
    process = python(COMMAND, "envs", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process:
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


# envs.


def test_envs_tell_tasks_and_splits(run: Run) -> None:
    rows = {row["id"]: row for row in answer(run, "envs")}
    assert set(rows) >= {HOUSEHOLD, DATABASE}
    household = rows[HOUSEHOLD]
    assert household["tasks"] == "household"
    assert household["splits"]["train"] == "unlimited"
    assert household["splits"]["test"] >= 500
    assert household["needs"] is None and household["about"]
    status, out, _ = run("envs")
    assert status == 0
    assert all(row["id"] in out and row["about"] in out for row in rows.values())


# play.


def play(run: Run, monkeypatch: pytest.MonkeyPatch, lines: list[str], *words: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    status, out, _ = run("play", HOUSEHOLD, "--task", "household/test/000000", *words)
    assert status == 0
    return out


def expert_actions() -> list[str]:
    env = trialgym.make(HOUSEHOLD)
    env.reset(options={"task": "household/test/000000"})
    actions, over = [], False
    while not over:
        actions.append(env.expert())
        over = env.step(actions[-1])[2]
    return actions


def test_a_person_solves_a_task(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = expert_actions()
    out = play(run, monkeypatch, [*actions, ":quit", "never read"])
    assert f"success: score 1 after {len(actions)} turns" in out
    assert out.count("\n> ") == len(actions) + 1


def test_undo_goes_back_any_number_of_turns_and_even_from_the_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = expert_actions()
    back = [":undo"] * len(actions)
    out = play(run, monkeypatch, [*actions, *back, ":undo", *actions])
    assert out.count("success: score 1") == 2
    assert "back at turn 0" in out and "nothing to take back" in out


def test_a_hint_is_the_next_right_action(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = expert_actions()
    out = play(run, monkeypatch, [":hint", actions[0], ":hint"])
    assert f"the expert would say: {actions[0]}\n" in out
    assert f"the expert would say: {actions[1]}\n" in out


def test_the_actions_of_the_moment_are_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = play(run, monkeypatch, [":actions", ":undo", ":dance"])
    assert f"  {expert_actions()[0]}\n" in out
    assert "unknown command `:dance`" in out


def test_a_spent_budget_ends_the_game(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = play(run, monkeypatch, ["look", "look", "look", ":hint"], "--env_options.max_turns", "2")
    assert "no success; the budget of 2 turns is spent: score 0 after 2 turns" in out
    assert out.count("the episode is over") == 2


# What reaches a terminal.


@given(st.text())
def test_printed_text_cannot_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.sampled_from("\x1b[]0123;?mHJK\x07\\P\x9bab\n")))
def test_no_escape_sequence_survives_in_pieces(text: str) -> None:
    assert not set("\x1b\x07\x9b") & set(printable(text))


def test_plain_text_stays_as_it_is() -> None:
    plain = "Grüße, 中文 🙂 👩\u200d🔬\n\ttab [31m is no escape"
    assert printable(plain) == plain
    assert printable("\x1b[2J\x1b]0;title\x07a\x1b[31mb\x1b[0mc") == "abc"
