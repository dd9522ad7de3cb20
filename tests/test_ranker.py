"""The ranker: what it computes, and that nothing beside a request changes its reply."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the `train` extra is not installed")

from worlds import Corridor  # noqa: E402

from trialgym import make, make_agent  # noqa: E402
from trialgym.agents.features import TEMPLATES, Memory, features  # noqa: E402
from trialgym.agents.ranker import Ranker  # noqa: E402
from trialgym.agents.scripted import Expert  # noqa: E402
from trialgym.core import ActionSpec  # noqa: E402
from trialgym.errors import BadFile, BadInput  # noqa: E402
from trialgym.policy import Request, TrainablePolicy  # noqa: E402
from trialgym.records import PolicyInfo, Trajectory, Turn  # noqa: E402
from trialgym.rollout import Limits, rollout  # noqa: E402

HOUSEHOLD = "trialgym/Household-v0"
GOAL = "put a clean mug in cabinet"
SEEN = "On the desk 1, you see a mug 1, and a pen 2."
OFFERED = ("go to cabinet 1", "take mug 1 from desk 1", "take pen 2 from desk 1", "look")


def request(seed: int = 0, episode: str = "a", turns: tuple[Turn, ...] = ()) -> Request:
    return Request(
        episode, GOAL, SEEN, turns, ActionSpec("", valid=OFFERED), seed, lambda: OFFERED[0]
    )


def sampling(policy: Ranker, seed: int = 3) -> Ranker:
    return policy.with_info(PolicyInfo("ranker", temperature=1.0, seed=seed))


def experts(count: int, start: int = 0) -> list[Trajectory]:
    tasks = make(HOUSEHOLD).tasks.ids("train", count, start)
    return rollout(Expert(), lambda: make(HOUSEHOLD), tasks, env=HOUSEHOLD, keep_candidates=True)


def test_the_ranker_is_a_trainable_policy() -> None:
    assert isinstance(Ranker(), TrainablePolicy)


def test_features_tell_what_the_goal_names_from_what_it_does_not() -> None:
    rows = features(GOAL, Memory(GOAL), SEEN, OFFERED, 2**14)
    assert rows.shape == (len(OFFERED), len(TEMPLATES))
    mug, pen = rows[1], rows[2]
    place = TEMPLATES.index("verb place")
    assert mug[place] != pen[place]
    assert mug[TEMPLATES.index("verb")] == pen[TEMPLATES.index("verb")]


def test_features_do_not_depend_on_the_hash_seed_or_the_process() -> None:
    rows = features(GOAL, Memory(GOAL), SEEN, OFFERED, 2**14)
    # Pinned: a saved table is worth nothing if its rows move.
    assert rows.sum(axis=1).tolist() == [341373, 358038, 378485, 336743]


def test_a_memory_that_caught_up_late_equals_one_that_kept_up() -> None:
    episode = experts(1)[0]
    late, steady = Memory(episode.instruction), Memory(episode.instruction)
    for number, turn in enumerate(episode.turns):
        steady.catch_up(episode.turns[:number], turn.observation)
    last = episode.turns[-1]
    late.catch_up(episode.turns[:-1], last.observation)
    one = features(episode.instruction, late, last.observation, last.candidates, 2**14)
    two = features(episode.instruction, steady, last.observation, last.candidates, 2**14)
    assert np.array_equal(one, two)


def test_log_probabilities_of_acting_and_of_training_agree_with_a_manual_softmax() -> None:
    policy = sampling(Ranker(seed=1))
    episodes = rollout(
        policy,
        lambda: make(HOUSEHOLD, max_turns=8),
        make(HOUSEHOLD).tasks.ids("train", 4),
        env=HOUSEHOLD,
    )
    trained = policy.log_probs([policy.prepare(one) for one in episodes])
    for row, episode in zip(trained, episodes, strict=True):
        acted = [turn.log_prob for turn in episode.turns]
        assert row[: len(acted)].tolist() == pytest.approx(acted, abs=1e-4)
        assert row[len(acted) :].abs().sum() == 0
    first = policy.prepare(episodes[0])
    scores = policy.network(first.indices[first.turn == 0])
    manual = torch.log_softmax(scores, 0)[first.chosen[0]]
    assert trained[0, 0].item() == pytest.approx(manual.item(), abs=1e-5)


def test_a_reply_is_the_same_to_the_last_bit_whatever_it_is_batched_with() -> None:
    policy = sampling(Ranker(seed=2))
    alone = policy.act([request(seed=7)])[0]
    crowd = policy.act([request(seed=n, episode=str(n)) for n in range(20)])
    assert crowd[7] == alone
    for concurrency in (1, 5):
        episodes = rollout(
            policy,
            Corridor,
            Corridor.houses().ids("test"),
            env="tests/Corridor-v0",
            limits=Limits(concurrency=concurrency),
        )
        if concurrency == 1:
            expected = episodes
    assert episodes == expected


def test_temperature_one_draws_actions_as_often_as_their_probabilities_say() -> None:
    policy = sampling(Ranker(seed=4))
    replies = policy.act([request(seed=n, episode=str(n)) for n in range(4000)])
    chances = {reply.action: np.exp(reply.log_prob) for reply in replies}
    for action, chance in chances.items():
        share = sum(reply.action == action for reply in replies) / len(replies)
        assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 4000) ** 0.5)
    assert len(chances) == len(OFFERED)


def test_temperature_zero_takes_the_likeliest_action() -> None:
    policy = Ranker(seed=4)
    greedy = policy.act([request()])[0]
    drawn = sampling(policy).act([request(seed=n, episode=str(n)) for n in range(300)])
    assert greedy.log_prob == max(reply.log_prob for reply in drawn)


def test_a_saved_ranker_acts_as_it_did(tmp_path: Path) -> None:
    policy = Ranker(seed=5)
    policy.save(tmp_path / "policy")
    again = make_agent(tmp_path / "policy", seed=5)
    assert again.act([request()]) == policy.act([request()])


def test_a_clone_stays_as_it_is_when_the_policy_is_trained() -> None:
    policy = Ranker(seed=6)
    frozen = policy.clone()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)
    assert not torch.equal(frozen.parameters()[0], policy.parameters()[0])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_an_environment_that_lists_no_actions_is_refused_with_the_reason() -> None:
    spec = ActionSpec("say anything")
    with pytest.raises(BadInput, match="lists none"):
        Ranker().act([replace(request(), spec=spec)])


def test_a_trajectory_without_candidates_is_refused_with_the_remedy() -> None:
    episode = experts(1)[0]
    bare = replace(episode, turns=tuple(replace(t, candidates=()) for t in episode.turns))
    with pytest.raises(BadInput, match="candidates kept"):
        Ranker().prepare(bare)
    with pytest.raises(BadInput, match="no turns"):
        Ranker().prepare(replace(episode, turns=()))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"agent": "ranker"}', '{"sizes": {"width": 2}}'])
def test_a_spoilt_description_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "trialgym_agent.json").write_text(text)
    with pytest.raises(BadFile, match="trialgym_agent"):
        Ranker(tmp_path)
    with pytest.raises(BadFile, match="no such file"):
        Ranker(tmp_path / "absent")


def test_weights_learnt_under_other_features_are_refused(tmp_path: Path) -> None:
    Ranker().save(tmp_path)
    path = tmp_path / "trialgym_agent.json"
    path.write_text(path.read_text().replace('"features": 1', '"features": 0'))
    with pytest.raises(BadFile, match="train it again"):
        Ranker(tmp_path)
