"""Language-model agents: exact rows, masks, log-probabilities, sampling, caches."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the `train` extra is not installed")
pytest.importorskip("transformers", reason="the `train` extra is not installed")

import torch
import transformers

from trialgym.agents.chat import CHATML, Chat
from trialgym.agents.engine import Engine, Prompt, Sampling, trie_of
from trialgym.agents.language import Language
from trialgym.agents.tiny import build
from trialgym.benchmarks import generation
from trialgym.core import ActionSpec
from trialgym.errors import BadFile, BadInput
from trialgym.policy import Encoding, LanguagePolicy, Reply, Request
from trialgym.records import Message, PolicyInfo, StopReason, Trajectory, Turn
from trialgym.registry import make_agent

TEXTS = [
    "You are in a room. You see a cabinet 1, a fridge 2, and a bowl 3.\nPut a bowl in fridge.",
    "You arrive at cabinet 1. On the cabinet 1, you see a bowl 3.",
    "You arrive at fridge 2. The fridge 2 is closed.",
    "go to fridge 2",
    "go to cabinet 1",
    "take bowl 3 from cabinet 1",
    "look",
]
ACTIONS = ("go to fridge 2", "go to cabinet 1", "take bowl 3 from cabinet 1", "look")
SPEC = ActionSpec("go to <place>, take <thing> from <place>, look", valid=ACTIONS)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    build(TEXTS * 3, path, vocabulary=340, hidden=32, layers=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        # Fresh weights hardly react to history, and would forgive a wrong cache.
        for name, parameter in model.named_parameters():
            parameter.mul_(8 if "proj" in name else 2 if parameter.ndim > 1 else 1)
    model.save_pretrained(path)
    return path


@pytest.fixture
def policy(tiny_path: Path) -> Language:
    return Language(
        tiny_path, format="act", system=False, temperature=1.0, max_new_tokens=6, batch_slots=4
    )


@pytest.fixture
def restricted(tiny_path: Path) -> Language:
    return Language(tiny_path, format="act", system=False, temperature=1.0, restricted=True)


@pytest.fixture(scope="session")
def chat_path(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the template of most chat models, in which system prompts have a role."""
    path = tmp_path_factory.mktemp("chat")
    policy = Language(tiny_path)
    policy.tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<|act|>"]}
    )
    policy.tokenizer.chat_template = CHATML
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    policy.model.save_pretrained(path)
    policy.tokenizer.save_pretrained(path)
    return path


def request(episode: str, observation: str, turns: Sequence[Turn] = (), seed: int = 0) -> Request:
    return Request(episode, TEXTS[0], observation, turns, SPEC, seed, lambda: "look")


def as_turn(observation: str, reply: Reply, **changes: Any) -> Turn:
    turn = Turn(
        observation,
        reply.action or "",
        reply.text,
        reply.thought,
        prompt_ids=reply.prompt_ids,
        token_ids=reply.token_ids,
        token_log_probs=reply.token_log_probs,
        log_prob=reply.log_prob,
    )
    return replace(turn, **changes)


def episode_of(turns: Sequence[Turn], **changes: Any) -> Trajectory:
    row = Trajectory(
        "nowhere", "toy/train/000000", "train", TEXTS[0], tuple(turns), "", 0.0, False,
        StopReason.MAX_TURNS, PolicyInfo("expert"),
    )  # fmt: skip
    return replace(row, **changes)


def play(policy: Language, name: str, turns: int, seed: int = 0, **changes: Any) -> Trajectory:
    done: list[Turn] = []
    for index in range(turns):
        seen = TEXTS[index % 3]
        (reply,) = policy.act([request(name, seen, done, seed + index)])
        done.append(as_turn(seen, reply, **changes))
    return episode_of(done, preamble=policy.preamble("", SPEC))


def full_log_probs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)


def test_the_agent_is_a_language_policy(policy: Language) -> None:
    assert isinstance(policy, LanguagePolicy)


# Engine.


@pytest.mark.parametrize(("count", "most"), [(4, 3), (6, 3), (6, 6)])
def test_cached_log_probabilities_equal_a_full_recomputation_over_many_turns(
    policy: Language, count: int, most: int
) -> None:
    """With four slots: episodes change places, and where there are more, some are evicted."""
    assert policy.engine.cached
    names = [f"episode {i}" for i in range(count)]
    episodes: dict[str, list[Turn]] = {name: [] for name in names}
    chance = random.Random(count)
    for step in range(12):
        asked = chance.sample(names, k=chance.randint(1, most))
        seen = [f"{name}: {TEXTS[chance.randrange(3)]}" for name in asked]
        replies = policy.act(
            [request(n, o, episodes[n], step) for n, o in zip(asked, seen, strict=True)]
        )
        for name, observation, reply in zip(asked, seen, replies, strict=True):
            episodes[name].append(as_turn(observation, reply))
    for turns in episodes.values():
        row = policy.encode(episode_of(turns))
        log_probs = full_log_probs(policy.model, row.ids)
        ours = [value for turn in turns for value in turn.token_log_probs]
        places = [place for place, turn in enumerate(row.turn) if turn >= 0]
        theirs = [log_probs[place - 1, row.ids[place]].item() for place in places]
        assert ours == pytest.approx(theirs, abs=1e-4)


def families() -> Iterator[tuple[str, Any, bool]]:
    small = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    yield "qwen3", transformers.Qwen3Config(**small, head_dim=8), True
    yield "qwen2", transformers.Qwen2Config(**small), True
    yield "mistral", transformers.MistralConfig(**small, sliding_window=None), True
    yield (
        "a window as long as the context",
        transformers.MistralConfig(**small, sliding_window=64),
        True,
    )
    yield "sliding window", transformers.MistralConfig(**small, sliding_window=8), False
    yield (
        "gpt2",
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        True,
    )
    yield (
        "bloom",
        transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
        False,
    )


@pytest.mark.parametrize(
    ("config", "cached"), [pytest.param(c, cached, id=name) for name, c, cached in families()]
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_family_is_sampled_with_the_models_own_log_probabilities(
    config: Any, cached: bool, attention: str
) -> None:
    if attention == "sdpa" and config.model_type == "bloom":
        attention = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    engine = Engine(model.eval(), stops=[0], max_context=64, slots=3)
    assert engine.cached is cached
    rows = {str(i): [(3 * i + j) % 60 + 1 for j in range(4 + 5 * i)] for i in range(3)}
    for step in range(2):
        prompts = [Prompt(name, ids, seed=step) for name, ids in rows.items()]
        samples = engine.generate(prompts, Sampling(temperature=1.0, max_new_tokens=5))
        for (name, ids), sample in zip(list(rows.items()), samples, strict=True):
            row = [*ids, *sample.ids]
            after = full_log_probs(model, row)
            theirs = [after[i - 1, row[i]].item() for i in range(len(ids), len(row))]
            assert list(sample.log_probs) == pytest.approx(theirs, abs=1e-4)
            rows[name] = [*row, 7, 8]


@pytest.mark.parametrize(("window", "cached"), [(None, True), (8, False)])
def test_sixteen_bit_weights_keep_their_cache(window: int | None, cached: bool) -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=window,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    engine = Engine(model.eval(), stops=[0], max_context=64, slots=3)
    assert engine.cached is cached
    (sample,) = engine.generate([Prompt("a", [1, 2, 3], 0)], Sampling(max_new_tokens=4))
    assert len(sample.ids) == 4 or sample.ids[-1] == 0


def test_greedy_decoding_equals_generate(policy: Language) -> None:
    greedy = policy.with_info(PolicyInfo("tiny", temperature=0.0))
    (reply,) = greedy.act([request("a", TEXTS[0])])
    line = torch.tensor([reply.prompt_ids])
    theirs = policy.model.generate(
        line, attention_mask=torch.ones_like(line), do_sample=False, max_new_tokens=6
    )
    assert reply.token_ids == tuple(theirs[0, line.shape[1] :].tolist())


def test_what_is_sampled_depends_on_the_seed_and_not_on_the_company(policy: Language) -> None:
    alone = [policy.act([request(f"alone {i}", TEXTS[i % 3], seed=i)])[0] for i in range(9)]
    together = policy.act([request(f"with {i}", TEXTS[i % 3], seed=i) for i in range(9)])
    assert [r.token_ids for r in alone] == [r.token_ids for r in together]
    assert len({r.token_ids for r in together}) > 1
    again = policy.act([request("again", TEXTS[0], seed=0), request("other", TEXTS[0], seed=3)])
    assert again[0].token_ids == alone[0].token_ids


def test_sampled_frequencies_follow_temperature_and_top_p(policy: Language) -> None:
    engine = Engine(policy.model, stops=policy.stops, max_context=64, slots=128)
    ids = policy.act([request("a", TEXTS[0])])[0].prompt_ids
    log_probs = full_log_probs(policy.model, ids)[-1]
    draws = 2560
    for temperature, top_p in [(1.0, 1.0), (0.25, 1.0), (0.25, 0.5)]:
        wanted = (log_probs / temperature).softmax(-1)
        values, order = wanted.sort(descending=True)
        kept = values.cumsum(0) - values < top_p
        wanted = torch.zeros_like(wanted).index_put((order[kept],), values[kept])
        wanted /= wanted.sum()
        prompts = [Prompt(str(i % 128), ids, seed=i) for i in range(draws)]
        sampling = Sampling(temperature, top_p, max_new_tokens=1)
        counts = torch.zeros_like(wanted)
        for sample in engine.generate(prompts, sampling):
            counts[sample.ids[0]] += 1
        assert counts[wanted == 0].sum() == 0
        likely = wanted > 5 / draws
        spread = (counts[likely] - draws * wanted[likely]) / (draws * wanted[likely]).sqrt()
        assert spread.abs().max() < 5


def test_the_same_episode_twice_in_a_batch_gives_two_right_replies(policy: Language) -> None:
    twice = policy.act([request("a", TEXTS[0], seed=1), request("a", TEXTS[1], seed=2)])
    once = [policy.act([request("b", TEXTS[i], seed=i + 1)])[0] for i in range(2)]
    assert [r.token_ids for r in twice] == [r.token_ids for r in once]


def test_a_slot_is_dropped_when_the_weights_change(policy: Language) -> None:
    first = play(policy, "a", 2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    (reply,) = policy.act([request("a", TEXTS[2], first.turns)])
    row = [*policy.encode(first).ids, *reply.prompt_ids, *reply.token_ids]
    log_probs = full_log_probs(policy.model, row)
    start = len(row) - len(reply.token_ids)
    theirs = [log_probs[i - 1, row[i]].item() for i in range(start, len(row))]
    assert list(reply.token_log_probs) == pytest.approx(theirs, abs=1e-4)


def test_forgetting_frees_the_slot_and_another_branch_reuses_only_what_it_shares(
    policy: Language,
) -> None:
    first = play(policy, "a", 3)
    cache = policy.engine._cache
    assert cache is not None
    other = replace(first.turns[1], token_ids=(5, 6), text=policy.tokenizer.decode([5, 6]))
    (reply,) = policy.act([request("a", TEXTS[1], [first.turns[0], other])])
    row = policy.encode(episode_of([first.turns[0], other, as_turn(TEXTS[1], reply)]))
    log_probs = full_log_probs(policy.model, row.ids)
    places = [place for place, turn in enumerate(row.turn) if turn == 2]
    theirs = [log_probs[place - 1, row.ids[place]].item() for place in places]
    assert list(reply.token_log_probs) == pytest.approx(theirs, abs=1e-4)
    policy.forget("a")
    assert all(slot.episode is None for slot in cache.slots)


def test_a_full_context_ends_the_episode(tiny_path: Path) -> None:
    policy = Language(tiny_path, format="act", system=False, max_context=30, max_new_tokens=50)
    (reply,) = policy.act([request("a", TEXTS[0])])
    assert reply.out_of_context
    assert len(reply.prompt_ids) + len(reply.token_ids) == 30
    (reply,) = policy.act([request("b", "x" * 40)])
    assert reply.out_of_context
    assert reply.token_ids == ()


# Rows and masks.


def replies_of(row: Encoding, policy: Language) -> list[str]:
    """Decode each maximal run of trained tokens."""
    runs: list[list[int]] = []
    for place, trained in enumerate(row.loss):
        if trained and (place == 0 or not row.loss[place - 1]):
            runs.append([])
        if trained:
            runs[-1].append(row.ids[place])
    return [policy.tokenizer.decode(run) for run in runs]


def test_a_rollouts_row_is_what_the_engine_read_and_wrote(policy: Language) -> None:
    trajectory = play(policy, "a", 4)
    row = policy.encode(trajectory)
    joined = [i for turn in trajectory.turns for i in (*turn.prompt_ids, *turn.token_ids)]
    assert list(row.ids) == joined
    cache = policy.engine._cache
    assert cache is not None
    (slot,) = [slot for slot in cache.slots if slot.episode == "a"]
    assert slot.tokens == joined[: len(slot.tokens)]
    assert len(slot.tokens) >= len(joined) - 1


@pytest.mark.parametrize("format", ["act", "react"])
def test_what_restricted_decoding_wrote_renders_to_the_same_row(
    chat_path: Path, format: str
) -> None:
    policy = Language(chat_path, format=format, temperature=1.0, restricted=True)
    trajectory = play(policy, "a", 4)
    bare = [Turn(t.observation, t.action, candidates=ACTIONS) for t in trajectory.turns]
    told = {"grammar": SPEC.grammar}
    assert policy.encode(episode_of(bare, info=told)).ids == policy.encode(trajectory).ids


@pytest.mark.parametrize("template", [None, "plain", "chatml"])
@pytest.mark.parametrize("format", ["act", "react"])
def test_trained_tokens_decode_to_the_replies_and_their_end(
    chat_path: Path, format: str, template: str | None
) -> None:
    policy = Language(chat_path, format=format, chat_template=template)
    turns = [
        Turn(TEXTS[0], "look", thought="first <|im_end|> I look"),
        Turn(TEXTS[1], "go to fridge 2", thought="no", loss=False),
        Turn("héllo <|im_end|> 中\n\n", "take bowl 3 from cabinet 1"),
    ]
    row = policy.encode(episode_of(turns, info={"grammar": "g"}))
    end = policy.tokenizer.convert_ids_to_tokens(policy._cut(()).end)
    wanted = [policy.format.render(t.thought, t.action) + end for t in (turns[0], turns[2])]
    assert replies_of(row, policy) == wanted
    assert [row.turn.count(i) > 0 for i in range(3)] == [True, True, True]
    # The end-of-turn token stands only where the template or a reply's end put it.
    ends = sum(token == policy._cut(()).end for token in row.ids)
    assert ends == (3 if template == "plain" else 7)


def test_a_chat_row_reads_as_the_template_renders_it(chat_path: Path) -> None:
    policy = Language(chat_path, format="react")
    turns = [Turn(TEXTS[0], "look", thought="hm"), Turn(TEXTS[1], "go to fridge 2")]
    row = policy.encode(episode_of(turns, info={"grammar": "g"}))
    chat = [{"role": m.role, "content": m.content} for m in policy.preamble("", ActionSpec("g"))]
    for turn in turns:
        chat.append({"role": "user", "content": turn.observation})
        said = policy.format.render(turn.thought, turn.action)
        chat.append({"role": "assistant", "content": said})
    rendered = policy.tokenizer.apply_chat_template(chat, tokenize=False)
    assert policy.tokenizer.decode(row.ids) == rendered.removesuffix("\n")


def test_demonstrations_get_the_prompt_that_the_policy_itself_is_given(chat_path: Path) -> None:
    policy = Language(chat_path, temperature=1.0, restricted=True)
    own = play(policy, "a", 1)
    shown = episode_of([Turn(TEXTS[0], "look")], info={"grammar": SPEC.grammar})
    prompt = policy.encode(shown)
    assert prompt.ids[: len(own.turns[0].prompt_ids)] == own.turns[0].prompt_ids


def test_ids_of_another_tokenizer_are_not_taken_for_ours(policy: Language) -> None:
    foreign = Turn(TEXTS[0], "look", "look", prompt_ids=(1, 2), token_ids=(3, 4, 999_999))
    wrong = replace(foreign, token_ids=(3, 4))
    plain = policy.encode(episode_of([Turn(TEXTS[0], "look")]))
    assert policy.encode(episode_of([foreign])) == plain
    assert policy.encode(episode_of([wrong])) == plain


def test_a_reply_that_was_cut_off_is_ended_by_the_next_prompt(policy: Language) -> None:
    trajectory = play(policy, "a", 6, seed=3)
    stops = policy.stops
    cut = [turn.token_ids[-1] not in stops for turn in trajectory.turns]
    assert any(cut)
    for before, turn in zip(cut, trajectory.turns[1:], strict=False):
        assert (turn.prompt_ids[0] == policy._cut(()).end) is before


UNSTABLE = {
    "strips the reasoning of earlier replies": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n</think>\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "otherwise than after",
    ),
    "shows only the last message": (
        "{{ messages[-1]['content'] }}<|im_end|>{% if add_generation_prompt %}>{% endif %}",
        "otherwise than after",
    ),
    "numbers messages backwards": (
        "{% for m in messages %}{{ loop.revindex if m['role'] == 'system' else '' }}"
        "<|im_start|>{{ messages|length > 3 }}{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{{ messages|length > 2 }}{% endif %}",
        "otherwise than after",
    ),
    "has no end of turn": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "no special token",
    ),
    "cannot do two turns": (
        "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
        "{{ messages[0]['content'] }}",
        "several turns",
    ),
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_a_template_that_is_not_prefix_stable_is_refused_by_name(
    chat_path: Path, name: str
) -> None:
    template, problem = UNSTABLE[name]
    with pytest.raises(BadInput, match=problem) as caught:
        Language(chat_path, chat_template=template)
    assert "chat_template" in str(caught.value)


def test_a_template_without_a_system_role_gets_the_prompt_in_the_first_message(
    chat_path: Path,
) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + CHATML.replace("message['content']", "message['content'] | trim")
    )
    pieces = Chat(Language(chat_path).tokenizer, template).pieces((Message("system", "rules"),))
    assert pieces.opening[0] == "<|im_start|>user\nrules\n\n"
    assert pieces.trims


# Restricted decoding.


def test_restricted_replies_are_admissible_and_their_probabilities_sum_to_one(
    restricted: Language,
) -> None:
    replies = restricted.act([request(f"e{i}", TEXTS[0], seed=i) for i in range(40)])
    assert {reply.action for reply in replies} <= set(ACTIONS)
    assert len({reply.action for reply in replies}) > 1
    rows = [
        restricted.encode(episode_of([Turn(TEXTS[0], action, candidates=ACTIONS)]))
        for action in ACTIONS
    ]
    scores = restricted.log_probs(rows)[:, 0]
    assert scores.exp().sum().item() == pytest.approx(1, abs=1e-5)
    known = dict(zip(ACTIONS, scores.tolist(), strict=True))
    for reply in replies:
        assert reply.log_prob == pytest.approx(known[str(reply.action)], abs=1e-4)


def test_restricted_greedy_walks_the_likeliest_allowed_tokens(restricted: Language) -> None:
    greedy = restricted.with_info(PolicyInfo("tiny", temperature=0.0))
    (reply,) = greedy.act([request("a", TEXTS[0])])
    trie: Any = trie_of(restricted._spelling(action) for action in ACTIONS)
    row = list(reply.prompt_ids)
    while trie:
        after = full_log_probs(restricted.model, row)[-1]
        row.append(max(trie, key=lambda token: after[token].item()))
        trie = trie[row[-1]]
    assert reply.token_ids == tuple(row[len(reply.prompt_ids) :])


def test_one_admissible_action_is_certain_and_none_leaves_decoding_free(
    restricted: Language,
) -> None:
    only = replace(request("a", TEXTS[0]), spec=ActionSpec("g", valid=("look",)))
    (reply,) = restricted.act([only])
    assert (reply.action, reply.log_prob) == ("look", 0.0)
    free = replace(request("b", TEXTS[0]), spec=ActionSpec("g"))
    (reply,) = restricted.act([free])
    assert reply.text not in ACTIONS


def test_an_action_that_was_not_listed_can_still_be_scored(restricted: Language) -> None:
    row = restricted.encode(episode_of([Turn(TEXTS[0], "take it", candidates=ACTIONS)]))
    score = restricted.log_probs([row])
    assert score.item() < 0
    assert torch.isfinite(score).all()


# Training.


def test_log_probabilities_equal_those_of_the_rollout_and_have_gradients(
    policy: Language, restricted: Language
) -> None:
    for agent in (policy, restricted):
        listed = {"candidates": ACTIONS} if agent.needs_candidates else {}
        played = [play(agent, f"e{i}", i + 1, seed=10 * i, **listed) for i in range(3)]
        scores = agent.log_probs([agent.prepare(trajectory) for trajectory in played])
        assert scores.shape == (3, 3)
        for line, trajectory in enumerate(played):
            ours = [turn.log_prob for turn in trajectory.turns]
            assert scores[line, : len(ours)].tolist() == pytest.approx(ours, abs=1e-4)
            assert not scores[line, len(ours) :].any()
        scores.sum().backward()
        assert all(p.grad is not None for p in agent.parameters())


def test_the_gradient_moves_the_choice_and_leaves_masked_tokens_alone(
    restricted: Language,
) -> None:
    row = restricted.encode(episode_of([Turn(TEXTS[0], "look", candidates=ACTIONS)]))
    allowed = {token for tokens in row.allowed.values() for token in tokens}
    head = restricted.model.lm_head
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda *call: seen.append(call[2]) or None)
    restricted.log_probs([row])
    handle.remove()
    (logits,) = seen
    logits.retain_grad()
    handle = head.register_forward_hook(lambda *call: seen.append(call[2]) or None)
    score = restricted.log_probs([row]).sum()
    handle.remove()
    seen[1].retain_grad()
    score.backward()
    gradient = seen[1].grad
    assert gradient is not None
    moved = set(gradient.abs().sum((0, 1)).nonzero().flatten().tolist())
    assert moved <= allowed
    assert moved


def test_scoring_is_the_same_while_training_is_on(tiny_path: Path) -> None:
    policy = Language(tiny_path, format="act", system=False)
    policy.model.config.attention_dropout = 0.5
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    row = policy.encode(episode_of([Turn(TEXTS[0], "look")]))
    quiet = policy.log_probs([row]).item()
    policy.model.train()
    assert policy.log_probs([row]).item() == quiet
    assert policy.model.training


def test_a_clone_keeps_its_weights_and_trains_none(policy: Language) -> None:
    row = policy.encode(episode_of([Turn(TEXTS[0], "look")]))
    policy.act([request("a", TEXTS[0])])
    twin = policy.clone()
    before = twin.log_probs([row]).item()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    assert twin.log_probs([row]).item() == before
    assert policy.log_probs([row]).item() != before
    assert not twin.parameters()
    (reply,) = twin.act([request("a", TEXTS[0])])
    scored = twin.log_probs([twin.encode(episode_of([as_turn(TEXTS[0], reply)]))])
    assert scored.item() == pytest.approx(reply.log_prob, abs=1e-4)


# On disk.


def test_a_saved_policy_loads_with_its_settings_and_weights(
    restricted: Language, tmp_path: Path
) -> None:
    restricted.save(tmp_path)
    loaded = make_agent(tmp_path, temperature=1.0)
    assert isinstance(loaded, Language)
    assert loaded.settings == restricted.settings
    ours, theirs = (agent.act([request("a", TEXTS[0], seed=5)]) for agent in (restricted, loaded))
    assert ours == theirs


def test_an_adapter_is_saved_as_an_adapter(tiny_path: Path, tmp_path: Path) -> None:
    policy = Language(tiny_path, format="act", system=False, lora=4)
    names = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    row = policy.encode(episode_of([Turn(TEXTS[0], "look")]))
    policy.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    loaded = Language(tmp_path)
    assert loaded.format.name == "act"
    score = policy.log_probs([row]).item()
    assert loaded.log_probs([row]).item() == pytest.approx(score, abs=1e-5)
    assert Language(tiny_path, adapter=tmp_path).info.adapter == str(tmp_path)
    assert loaded.engine.cached
    assert loaded.parameters()


@pytest.mark.parametrize("text", ["{", "[]", '{"agent": "transformers", "colour": "red"}'])
def test_settings_that_cannot_be_read_name_the_file(
    tiny_path: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "trialgym_agent.json").write_text(text)
    with pytest.raises(BadFile, match=r"trialgym_agent\.json"):
        Language(tmp_path)


def test_a_model_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="hub id"):
        Language(tmp_path / "nothing")


def test_the_settings_file_names_the_agent_that_loads_it(policy: Language, tmp_path: Path) -> None:
    policy.save(tmp_path)
    assert json.loads((tmp_path / "trialgym_agent.json").read_text())["agent"] == "transformers"


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_the_extra_the_error_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; import trialgym.agents.language"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"MissingExtra: `{missing}` is not installed; run `pip install" in done.stderr


def test_waiting_threads_are_told_to_sleep_before_torch_is_imported() -> None:
    code = "import trialgym.agents.language, os; print(os.environ['OMP_WAIT_POLICY'])"
    free = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=free)
    assert done.stdout.strip() == "PASSIVE"


def test_both_sides_of_the_generation_benchmark_do_the_same_work(tmp_path: Path) -> None:
    work = generation.Workload("small", episodes=3, turns=2, first=12, later=6, new=3)
    generation.save_model(tmp_path)
    policy = Language(
        tmp_path, format="act", system=False, temperature=1.0, max_new_tokens=3, batch_slots=3
    )
    played = generation.run_agent(policy, work, generation.observations(work))
    ours = sum(len(reply.token_ids) for replies in played for reply in replies)
    prompts = [[reply.prompt_ids for reply in replies] for replies in played]
    assert ours == generation.run_generate(policy, work, prompts) == 18
