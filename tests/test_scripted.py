"""The scripted policies: the expert, the baselines, and a recorded model played back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from worlds import HELP, Corridor, Houses, WithoutExpert

from trialgym.agents.scripted import Expert, Null, Random, Replay
from trialgym.core import ActionSpec
from trialgym.errors import BadInput
from trialgym.policy import Policy, Reply, Request
from trialgym.records import PolicyInfo, Trajectory, summarise
from trialgym.registry import make_agent
from trialgym.rollout import rollout
from trialgym.store import write_file

TASKS = Houses().ids("test", 20)


def run(policy: Policy, tasks: Sequence[str] = TASKS, **options: Any) -> list[Trajectory]:
    return rollout(policy, Corridor, tasks, env="tests/Corridor-v0", **options)


def played(trajectory: Trajectory, name: str) -> Trajectory:
    return replace(trajectory, policy=PolicyInfo(name))


@pytest.mark.parametrize("name", ["expert", "random", "null"])
def test_a_scripted_policy_is_made_by_id_and_is_a_policy(name: str) -> None:
    policy = make_agent(name)
    assert isinstance(policy, Policy)
    assert policy.info == PolicyInfo(name)


def test_the_expert_solves_everything_and_nothing_where_there_is_none() -> None:
    assert summarise(run(Expert())).success_rate == 1.0
    with pytest.raises(BadInput, match="WithoutExpert has no expert; use another agent"):
        rollout(Expert(), WithoutExpert, TASKS, env="tests/WithoutExpert-v0")


def test_the_null_policy_does_nothing_until_the_turns_are_over() -> None:
    found = run(Null())
    assert {(one.score, one.actions) for one in found} == {(0.0, ("",) * 8)}
    assert summarise(found).invalid_rate == 1.0


def test_the_random_policy_draws_admissible_actions_by_its_seed() -> None:
    found = run(Random(seed=1))
    assert summarise(found).invalid_rate == 0.0
    assert {turn.action for one in found for turn in one.turns} > {"take red", "take green"}
    assert run(Random(seed=1)) == found
    assert [one.actions for one in run(Random(seed=2))] != [one.actions for one in found]
    assert found[0].policy.seed == 1


def test_without_a_list_the_random_policy_says_a_word_that_it_saw() -> None:
    request = Request("key", "", "You see a door.", (), ActionSpec(HELP), 0, lambda: "")
    words = {Random().reply(replace(request, seed=seed)) for seed in range(50)}
    assert words == {"You", "see", "a", "door."}
    assert Random().reply(replace(request, observation="")) == ""


@pytest.mark.parametrize("suffix", [None, ".jsonl", ".parquet"])
def test_a_recorded_expert_plays_back_to_equal_trajectories(
    tmp_path: Path, suffix: str | None
) -> None:
    recorded = run(Expert())
    source: Any = recorded
    if suffix:
        source = tmp_path / f"expert{suffix}"
        write_file(source, recorded)
    replay = Replay(source)
    assert run(replay) == [played(one, "replay") for one in recorded]
    assert run(replay, TASKS[5:8]) == [played(one, "replay") for one in recorded[5:8]]


class Model(Random):
    """Speaks like a language model: thoughts, tokens, and now and then nothing of use."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self.speak(request) for request in requests]

    def speak(self, request: Request) -> Reply:
        action = self.reply(request)
        text = f"Thought: {request.seed % 7}\nAction: {action}"
        tokens = tuple(text.encode())
        if request.seed % 3 == 0:
            return Reply(None, text="Hm.", problem="Write `Action:`.", token_ids=tokens)
        thought = str(request.seed % 7)
        return Reply(action, text, thought, log_prob=-1.5, token_ids=tokens, prompt_ids=(1, 2))


def test_a_recorded_model_plays_back_with_its_thoughts_tokens_and_slips() -> None:
    recorded = run(Model(), keep_candidates=False)
    assert 0 < summarise(recorded).invalid_rate < 1
    assert run(Replay(recorded)) == [played(one, "replay") for one in recorded]


def test_past_the_end_of_its_record_the_replay_says_nothing() -> None:
    (expert,) = run(Expert(), TASKS[:1])
    (found,) = run(Replay([expert.cut(2)]), TASKS[:1])
    assert found.actions == (*expert.actions[:2], *("",) * 6)


def test_a_task_that_was_not_recorded_is_named() -> None:
    replay = Replay(run(Expert(), TASKS[:3]))
    with pytest.raises(BadInput, match=r"no recorded episode of the task `Walk through house"):
        run(replay, TASKS[3:4])
