"""Which trajectories make a pair, which do not, and that every one of them is accounted for."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialgym.algorithms.pairs import Pair, PairReport, PairRules, build_pairs, divergence
from trialgym.errors import BadInput
from trialgym.records import Message, PolicyInfo, StopReason, Trajectory, Turn


def episode(
    actions: str,
    score: float,
    *,
    task: str = "corridor/train/000000",
    sample: int = 0,
    stop: StopReason = StopReason.FAILURE,
    preamble: tuple[Message, ...] = (),
    first: str = "",
) -> Trajectory:
    """Make an episode of a deterministic world: what is seen tells all that was done before."""
    turns = tuple(
        Turn(
            observation=first + f"seen {actions[:index]}",
            action=action if action != "?" else "",
            text="no action" if action == "?" else action,
            state_hash=f"state {actions[:index]}",
        )
        for index, action in enumerate(actions)
    )
    return Trajectory(
        env="corridor",
        task_id=task,
        split="train",
        instruction="walk",
        turns=turns,
        final_observation=first + f"seen {actions}",
        score=score,
        success=score >= 1.0,
        stop=stop,
        policy=PolicyInfo("agent"),
        sample=sample,
        preamble=preamble,
    )


def drawn(pairs: list[Pair]) -> list[tuple[str, str, int]]:
    return [("".join(p.chosen.actions), "".join(p.rejected.actions), p.start) for p in pairs]


TABLE = [
    # agent (actions, score), expert (actions, score), rules, pairs, what is counted
    ("lost", ("bb", 0.0), ("aa", 1.0), {}, [("aa", "bb", 0)], {}),
    ("nearly", ("bb", 1 - 1e-6), ("aa", 1.0), {}, [("aa", "bb", 0)], {}),
    ("tied at one", ("bb", 1.0), ("aa", 1.0), {}, [], {"ties": 1}),
    ("tied at nought", ("bb", 0.0), ("aa", 0.0), {}, [], {"ties": 1}),
    ("tied but for rounding", ("bb", 0.1 + 0.2), ("aa", 0.3), {}, [], {"ties": 1}),
    ("within the margin", ("bb", 0.8), ("aa", 1.0), {"margin": 0.2}, [], {"ties": 1}),
    ("over the margin", ("bb", 0.79), ("aa", 1.0), {"margin": 0.2}, [("aa", "bb", 0)], {}),
    ("better", ("bb", 0.9), ("aa", 0.7), {}, [("bb", "aa", 0)], {"swapped": 1}),
    ("better, no swap", ("bb", 0.9), ("aa", 0.7), {"swap": False}, [], {"better": 1}),
    ("too long", ("b" * 9, 0.0), ("aa", 1.0), {}, [("aa", "b" * 7, 0)], {"truncated": 1}),
    ("just fits", ("b" * 7, 0.0), ("aa", 1.0), {}, [("aa", "b" * 7, 0)], {"truncated": 0}),
    ("whole", ("b" * 9, 0.0), ("aa", 1.0), {"extra_turns": None}, [("aa", "b" * 9, 0)], {}),
    ("no extra", ("b" * 9, 0.0), ("aa", 1.0), {"extra_turns": 0}, [("aa", "bb", 0)], {}),
    ("long expert swapped", ("b", 1.0), ("a" * 9, 0.5), {}, [("b", "a" * 9, 0)], {"truncated": 0}),
    ("same acts", ("aa", 0.0), ("aa", 1.0), {}, [], {"identical": 1}),
    ("unlike replies that hold no act", ("?", 0.0), ("a", 1.0), {}, [("a", "", 0)], {}),
    ("no turns", ("", 0.0), ("aa", 1.0), {}, [], {"empty": 1}),
    ("no score", ("bb", float("nan")), ("aa", 1.0), {}, [], {"faults": 1}),
    ("expert without turns", ("bb", 0.0), ("", 1.0), {}, [], {"empty": 1, "no_expert": 1}),
    ("parting", ("abb", 0.0), ("aac", 1.0), {"from_divergence": True}, [("aac", "abb", 1)], {}),
    (
        "parting and what follows",
        ("abbbb", 0.0),
        ("aaccc", 1.0),
        {"from_divergence": True, "turns_after_divergence": 2},
        [("aac", "abb", 1)],
        {},
    ),
    (
        "cut after the parting, trained from the first turn",
        ("abbbb", 0.0),
        ("aaccc", 1.0),
        {"turns_after_divergence": 1},
        [("aa", "ab", 0)],
        {},
    ),
    ("ends early", ("a", 0.0), ("aa", 1.0), {"from_divergence": True}, [], {"no_choice": 1}),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_trajectory_meets_the_expert_by_the_rules(row: tuple) -> None:
    _, agent, expert, rules, wanted, counted = row
    mine, theirs = episode(*agent), episode(*expert)
    pairs, report = build_pairs([mine], {mine.task_id: theirs}, PairRules(**rules))
    assert drawn(pairs) == wanted
    assert report.kept == len(wanted)
    found = report.to_json()
    assert {name: found[name] for name in counted} == counted


def test_a_fault_is_no_failure() -> None:
    broken = episode("bb", 0.0, stop=StopReason.FAULT)
    expert = episode("aa", 1.0)
    pairs, report = build_pairs([broken], {expert.task_id: expert})
    assert pairs == []
    assert (report.faults, report.tasks, report.ties) == (1, 1, 0)
    won = episode("aa", 1.0, sample=1)
    pairs, report = build_pairs([broken, won], rules=PairRules(source="self"))
    assert (pairs, report.faults) == ([], 1)


def test_a_task_without_an_expert_is_counted() -> None:
    pairs, report = build_pairs([episode("bb", 0.0)], {})
    assert (pairs, report.no_expert) == ([], 1)


def test_the_last_exploration_of_a_task_wins() -> None:
    expert = episode("aa", 1.0)
    tries = [episode("bb", 0.0, sample=1), episode("cc", 0.0, sample=0)]
    pairs, report = build_pairs(tries, {expert.task_id: expert})
    assert drawn(pairs) == [("aa", "cc", 0)]
    assert report.superseded == 1
    pairs, report = build_pairs(tries, {expert.task_id: expert}, PairRules(last_wins=False))
    assert drawn(pairs) == [("aa", "cc", 0), ("aa", "bb", 0)]
    assert report.superseded == 0


def test_a_late_fault_does_not_hide_an_earlier_exploration() -> None:
    expert = episode("aa", 1.0)
    tries = [episode("bb", 0.0), episode("cc", 0.0, sample=1, stop=StopReason.FAULT)]
    pairs, _ = build_pairs(tries, {expert.task_id: expert})
    assert drawn(pairs) == [("aa", "bb", 0)]


def test_own_failures_meet_the_shortest_own_success() -> None:
    tries = [
        episode("bbbb", 0.0, sample=0),
        episode("aaaa", 1.0, sample=1),
        episode("aa", 1.0, sample=2),
        episode("cc", 0.0, sample=3),
        episode("dd", 0.5, sample=4),
    ]
    rules = PairRules(source="self")
    pairs, report = build_pairs(tries, rules=rules)
    assert drawn(pairs) == [("aa", "bbbb", 0), ("aa", "cc", 0)]
    assert report.ties == 1
    assert report.pairs_per_task == 2.0
    pairs, _ = build_pairs(tries, rules=replace(rules, rejected_per_chosen=1))
    assert drawn(pairs) == [("aa", "bbbb", 0)]


def test_a_partial_score_beats_a_lower_one_without_any_success() -> None:
    tries = [episode("bb", 0.25, sample=0), episode("aa", 0.5, sample=1)]
    pairs, _ = build_pairs(tries, rules=PairRules(source="self"))
    assert drawn(pairs) == [("aa", "bb", 0)]


def test_the_same_failure_twice_makes_one_pair() -> None:
    tries = [episode("aa", 1.0)] + [episode("bb", 0.0, sample=index) for index in (1, 2)]
    tries.append(episode("cc", 0.0, sample=3))
    pairs, report = build_pairs(tries, rules=PairRules(source="self"))
    assert drawn(pairs) == [("aa", "bb", 0), ("aa", "cc", 0)]
    assert report.identical == 1


def test_both_sources_give_the_expert_first_and_the_cap_holds_a_task() -> None:
    expert = episode("ee", 1.0)
    tries = [episode("bb", 0.0, sample=0), episode("aa", 0.5, sample=1)]
    rules = PairRules(source="both", last_wins=False)
    pairs, report = build_pairs(tries, {expert.task_id: expert}, rules)
    assert drawn(pairs) == [("ee", "bb", 0), ("ee", "aa", 0), ("aa", "bb", 0)]
    capped = replace(rules, max_pairs_per_task=2)
    pairs, report = build_pairs(tries, {expert.task_id: expert}, capped)
    assert drawn(pairs) == [("ee", "bb", 0), ("ee", "aa", 0)]
    assert report.capped == 1


def test_both_sides_stand_under_the_agents_preamble() -> None:
    system = (Message("system", "answer in one word"), Message("user", "an example"))
    agent = episode("bb", 0.0, preamble=system)
    expert = episode("aa", 1.0, preamble=(Message("system", "the expert's own"),))
    (pair,), _ = build_pairs([agent], {agent.task_id: expert})
    assert pair.chosen.preamble == pair.rejected.preamble == system
    assert pair.chosen.messages[:3] == pair.rejected.messages[:3]


def test_sides_that_begin_with_different_observations_make_no_pair() -> None:
    agent, expert = episode("bb", 0.0), episode("aa", 1.0, first="Task: ")
    pairs, report = build_pairs([agent], {agent.task_id: expert})
    assert (pairs, report.other_prompt) == ([], 1)


def test_chance_in_the_world_is_no_choice() -> None:
    agent, expert = episode("abb", 0.0), episode("aac", 1.0)
    slipped = replace(agent.turns[1], state_hash="elsewhere")
    agent = replace(agent, turns=(agent.turns[0], slipped, agent.turns[2]))
    assert divergence(expert, agent) is None
    rules = PairRules(from_divergence=True)
    pairs, report = build_pairs([agent], {agent.task_id: expert}, rules)
    assert (pairs, report.no_choice) == ([], 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "teacher"},
        {"margin": -0.1},
        {"margin": float("nan")},
        {"extra_turns": -1},
        {"rejected_per_chosen": 0},
        {"max_pairs_per_task": 0},
        {"turns_after_divergence": 0},
    ],
    ids=str,
)
def test_rules_that_no_pair_can_meet_are_refused(wrong: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        PairRules(**wrong)


episodes = st.builds(
    episode,
    actions=st.text("ab?", max_size=8),
    score=st.sampled_from([0.0, 0.1 + 0.2, 0.3, 0.5, 1.0]),
    task=st.sampled_from(["corridor/train/000000", "corridor/train/000001"]),
    stop=st.sampled_from([StopReason.FAILURE, StopReason.MAX_TURNS, StopReason.FAULT]),
)
explorations = st.lists(episodes, max_size=7).map(
    lambda found: [replace(one, sample=index) for index, one in enumerate(found)]
)
rule_sets = st.builds(
    PairRules,
    source=st.sampled_from(["expert", "self", "both"]),
    margin=st.sampled_from([0.0, 0.25]),
    swap=st.booleans(),
    extra_turns=st.sampled_from([None, 0, 2]),
    last_wins=st.booleans(),
    rejected_per_chosen=st.integers(1, 3),
    max_pairs_per_task=st.sampled_from([None, 1, 2]),
    from_divergence=st.booleans(),
    turns_after_divergence=st.sampled_from([None, 1, 3]),
)


@settings(max_examples=150, deadline=None)
@given(explorations, st.lists(episodes, max_size=2), rule_sets)
def test_every_pair_prefers_more_and_shares_what_comes_before_its_start(
    explored: list[Trajectory], taught: list[Trajectory], rules: PairRules
) -> None:
    experts = {one.task_id: one for one in taught}
    pairs, report = build_pairs(explored, experts, rules)
    whole = {one.task_id: one for one in explored}
    per_task: dict[str, int] = {}
    for pair in pairs:
        per_task[pair.task_id] = per_task.get(pair.task_id, 0) + 1
        assert pair.chosen.task_id == pair.rejected.task_id == pair.task_id in whole
        assert pair.chosen.score > pair.rejected.score + rules.margin
        assert not (pair.chosen.faulty or pair.rejected.faulty)
        assert pair.start < min(len(pair.chosen.turns), len(pair.rejected.turns))
        assert pair.chosen.turns[: pair.start] == pair.rejected.turns[: pair.start]
        assert pair.chosen.turns != pair.rejected.turns
        if rules.from_divergence:
            assert pair.chosen.turns[pair.start] != pair.rejected.turns[pair.start]
    assert report.kept == len(pairs)
    assert report.tasks == len(whole)
    assert report.trajectories == len(explored)
    assert all(number <= (rules.max_pairs_per_task or 99) for number in per_task.values())
    assert min(report.to_json().values()) >= 0


@settings(max_examples=60, deadline=None)
@given(explorations, st.lists(episodes, max_size=2), rule_sets, st.randoms(use_true_random=False))
def test_the_order_of_reading_changes_nothing_but_which_is_last(
    explored: list[Trajectory],
    taught: list[Trajectory],
    rules: PairRules,
    chance: random.Random,
) -> None:
    rules = replace(rules, last_wins=False)
    experts = {one.task_id: one for one in taught}
    shuffled = list(explored)
    chance.shuffle(shuffled)
    assert build_pairs(explored, experts, rules) == build_pairs(shuffled, experts, rules)


def test_nothing_explored_gives_nothing() -> None:
    assert build_pairs([]) == ([], PairReport())
    assert PairReport().pairs_per_task == 0.0
