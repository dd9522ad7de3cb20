"""Models made from scratch: a lossless phrase tokenizer, and the real path from there on."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the `train` extra is not installed")
pytest.importorskip("transformers", reason="the `train` extra is not installed")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trialgym.agents.language import Language
from trialgym.agents.tiny import Tiny, build, expert_texts
from trialgym.agents.vocabulary import learn
from trialgym.errors import BadInput
from trialgym.records import PolicyInfo, StopReason, Trajectory, Turn
from trialgym.registry import make
from trialgym.rollout import rollout

HOUSEHOLD = "trialgym/Household-v0"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(expert_texts(HOUSEHOLD, 120))


@pytest.fixture(scope="module")
def path(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(texts, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def policy(path: Path) -> Language:
    return Language(path, format="act", system=False, temperature=1.0, restricted=True)


TOKENIZER = learn(["You see a cabinet 3, and a bowl 12.", "go to cabinet 3"] * 3, 400)


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    "text",
    ["<|end|>", "cabinet 3<|act|>", "Ġgo Ċ", "a\r\n\tb\x00", "🙂é中", "cabinet 33 cabinets"],
)
def test_texts_that_look_like_tokens_come_back_too(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(TOKENIZER.all_special_ids)


def demonstrations(count: int, start: int) -> list[Trajectory]:
    env = make(HOUSEHOLD)
    shown = []
    for task in env.tasks.ids("train", count, start=start):
        observation, _ = env.reset(options={"task": task})
        turns: list[Turn] = []
        over = False
        while not over:
            action = env.expert()
            seen = observation
            observation, _, ended, truncated, info = env.step(action)
            turns.append(Turn(seen, action))
            over = ended or truncated
        done = (tuple(turns), observation, 1.0, info["success"], StopReason.SUCCESS)
        shown.append(Trajectory(HOUSEHOLD, task, "train", "", *done, PolicyInfo("expert")))
    return shown


def test_entities_are_single_tokens_and_an_episode_is_short(policy: Language) -> None:
    tokenizer = policy.tokenizer
    seen: set[str] = set()
    shown = demonstrations(40, start=9_000)
    for trajectory in shown:
        for token in policy.encode(trajectory).ids:
            seen.add(tokenizer.decode([token]))
    assert {"cabinet 1", "go to ", "You arrive at ", ", a "} <= seen
    tokens = sum(len(policy.encode(trajectory).ids) for trajectory in shown)
    turns = sum(len(trajectory.turns) for trajectory in shown)
    assert tokens / turns < 16
    assert tokens / len(shown) < 180


def test_the_same_texts_and_seed_give_the_same_model(
    texts: list[str], path: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    again = build(texts, tmp_path / "again")
    other = build(texts, tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("tokenizer.json", "model.safetensors"):
        assert (again / name).read_bytes() == (path / name).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (path / "model.safetensors").read_bytes()


def test_hugging_faces_own_loaders_read_it(path: Path, policy: Language) -> None:
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert 400_000 < size < 800_000
    chat = [{"role": "user", "content": "You see a cabinet 1."}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|start|>You see a cabinet 1.<|act|>"
    assert (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        == (policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    )


def test_a_rollouts_row_is_exact_and_its_log_probabilities_too(policy: Language) -> None:
    env = make(HOUSEHOLD)
    tasks = env.tasks.ids("train", 3)
    played = rollout(policy, lambda: make(HOUSEHOLD, max_turns=5), tasks, env=HOUSEHOLD)
    scores = policy.log_probs([policy.prepare(trajectory) for trajectory in played])
    for line, trajectory in enumerate(played):
        row = policy.encode(trajectory)
        assert list(row.ids) == [
            token for turn in trajectory.turns for token in (*turn.prompt_ids, *turn.token_ids)
        ]
        assert all(turn.valid for turn in trajectory.turns)
        ours: list[Any] = [turn.log_prob for turn in trajectory.turns]
        assert scores[line, : len(ours)].tolist() == pytest.approx(ours, abs=1e-3)


@pytest.mark.slow
def test_cloning_the_expert_raises_the_share_of_its_actions(path: Path) -> None:
    policy = Language(path, format="act", system=False)
    rows = [policy.prepare(trajectory) for trajectory in demonstrations(64, start=0)]
    held = [policy.prepare(trajectory) for trajectory in demonstrations(16, start=5_000)]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    chance = random.Random(0)
    with torch.no_grad():
        before = policy.log_probs(held).mean().item()
    for _ in range(40):
        loss = -policy.log_probs(chance.sample(rows, 8)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = policy.log_probs(held).mean().item()
    assert after > before / 2


def test_tiny_is_made_for_an_environment_and_loaded_the_next_time(tmp_path: Path) -> None:
    made = Tiny(tmp_path / "model", environment=HOUSEHOLD, hidden=32, layers=1, seed=3)
    loaded = Tiny(tmp_path / "model", seed=4)
    assert (made.format.name, made.settings.system) == ("act", False)
    ours, theirs = (list(p.model.parameters()) for p in (made, loaded))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_tiny_without_model_and_environment_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="environment="):
        Tiny(tmp_path)
    with pytest.raises(BadInput, match="heads"):
        build(["a"], tmp_path, hidden=30)


def test_a_reminder_ends_every_later_observation_alike_in_acting_and_in_training() -> None:
    policy = Tiny(environment=HOUSEHOLD, hidden=32, layers=1, seed=0, restricted=True, remind=True)
    tasks = make(HOUSEHOLD).tasks.ids("train", 2)
    episodes = rollout(policy, lambda: make(HOUSEHOLD, max_turns=4), tasks, env=HOUSEHOLD)
    for episode in episodes:
        row = policy.encode(episode)
        acted = [turn.prompt_ids + turn.token_ids for turn in episode.turns]
        assert row.ids == tuple(token for ids in acted for token in ids)
        prompts = [policy.tokenizer.decode(list(turn.prompt_ids)) for turn in episode.turns]
        assert all(f"Your task is to: {episode.instruction}." in text for text in prompts)
        assert prompts[0].count("Your task is to") == 1
        plain = tuple(replace(turn, prompt_ids=(), token_ids=()) for turn in episode.turns)
        assert policy.encode(replace(episode, turns=plain)).ids == row.ids
