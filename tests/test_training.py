"""Training a ranker: the numbers against hand-made ones, and each method improving a policy."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the `train` extra is not installed")

from worlds import Corridor  # noqa: E402

from trialgym.agents.ranker import Ranker  # noqa: E402
from trialgym.agents.scripted import Expert  # noqa: E402
from trialgym.algorithms.bc import BehaviourCloning  # noqa: E402
from trialgym.algorithms.eto import Eto  # noqa: E402
from trialgym.algorithms.losses import dpo  # noqa: E402
from trialgym.algorithms.pairs import Pair, PairRules, build_pairs  # noqa: E402
from trialgym.algorithms.rft import RejectionSampling, successes  # noqa: E402
from trialgym.algorithms.training import Experience, Schedule, imitate, prefer  # noqa: E402
from trialgym.errors import BadInput  # noqa: E402
from trialgym.records import PolicyInfo, Trajectory, summarise  # noqa: E402
from trialgym.rollout import rollout  # noqa: E402

TASKS = Corridor.houses()
ENV = "tests/Corridor-v0"
LN2 = math.log(2)


def explore(policy: Ranker, count: int = 40, samples: int = 4, round_: int = 1) -> list[Trajectory]:
    info = PolicyInfo("ranker", iteration=round_, temperature=1.0, seed=1)
    return rollout(
        policy.with_info(info), Corridor, TASKS.ids("train", count, 1000 * round_), env=ENV,
        samples=samples, group=f"explore/{round_}",
    )  # fmt: skip


def demonstrations(count: int) -> list[Trajectory]:
    return rollout(Expert(), Corridor, TASKS.ids("train", count), env=ENV, keep_candidates=True)


def read_first() -> list[Trajectory]:
    """Demonstrations of an agent that reads the sign before each door."""

    class Reader(Expert):
        def reply(self, request) -> str:  # type: ignore[no-untyped-def]
            return request.expert() if "sign says" in request.observation else "read"

    return rollout(Reader(), Corridor, TASKS.ids("train", 8), env=ENV, keep_candidates=True)


def success(policy: Ranker) -> float:
    episodes = rollout(
        policy.with_info(PolicyInfo("ranker", temperature=1.0)), Corridor, TASKS.ids("test"),
        env=ENV, samples=3,
    )  # fmt: skip
    return summarise(episodes).success_rate


def some_pairs(policy: Ranker) -> list[Pair]:
    pairs, _ = build_pairs(explore(policy), rules=PairRules(source="self"))
    assert len(pairs) >= 8
    return pairs


def sums(policy: Ranker, episodes: list[Trajectory]) -> torch.Tensor:
    return policy.log_probs([policy.prepare(one) for one in episodes]).sum(1)


@pytest.fixture
def explorer() -> Ranker:
    """A ranker that has learnt a little: it succeeds now and then."""
    policy = Ranker(seed=0)
    imitate(policy, read_first(), Schedule(epochs=4, batch=4, learning_rate=2e-3), "bc")
    return policy


def test_the_dpo_loss_equals_the_formula_worked_by_hand() -> None:
    one = torch.tensor
    value = dpo(one([-2.0]), one([-5.0]), one([-3.0]), one([-4.5]), 0.5)
    margin = 0.5 * ((-2.0 - -5.0) - (-3.0 - -4.5))
    assert value.item() == pytest.approx(-math.log(1 / (1 + math.exp(-margin))))


def test_the_first_dpo_update_starts_at_ln_2_with_no_margin(explorer: Ranker) -> None:
    report = prefer(
        explorer, some_pairs(explorer), Schedule(updates=1, batch=10_000), beta=0.1, nll=0.0,
        name="eto",
    )  # fmt: skip
    assert report.metrics[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
    assert report.metrics[0]["margin"] == pytest.approx(0, abs=1e-5)


def test_the_reference_is_the_policy_that_comes_in_also_in_a_second_round(explorer: Ranker) -> None:
    pairs = some_pairs(explorer)
    schedule = Schedule(updates=5, batch=8, learning_rate=3e-3)
    prefer(explorer, pairs, schedule, beta=0.1, nll=0.0, name="eto")
    report = prefer(
        explorer, pairs, Schedule(updates=1, batch=10_000), beta=0.1, nll=0.0, name="eto"
    )
    assert report.metrics[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)


def test_turns_before_a_pairs_start_and_turns_without_loss_get_no_gradient(
    explorer: Ranker,
) -> None:
    pair = some_pairs(explorer)[0]
    silent = replace(pair, start=max(len(pair.chosen.turns), len(pair.rejected.turns)))
    before = [parameter.detach().clone() for parameter in explorer.parameters()]
    for spoilt in (
        silent,
        replace(pair, chosen=_muted(pair.chosen), rejected=_muted(pair.rejected)),
    ):
        prefer(explorer, [spoilt], Schedule(updates=3), beta=0.5, nll=1.0, name="eto")
        for old, new in zip(before, explorer.parameters(), strict=True):
            assert torch.equal(old, new)
    prefer(explorer, [pair], Schedule(updates=3), beta=0.5, nll=1.0, name="eto")
    assert any(
        not torch.equal(old, new) for old, new in zip(before, explorer.parameters(), strict=True)
    )


def _muted(episode: Trajectory) -> Trajectory:
    return replace(episode, turns=tuple(replace(turn, loss=False) for turn in episode.turns))


def test_preferring_raises_the_chosen_side_against_the_rejected_one(explorer: Ranker) -> None:
    pairs = some_pairs(explorer)
    chosen, rejected = [p.chosen for p in pairs], [p.rejected for p in pairs]
    before = sums(explorer, chosen).mean() - sums(explorer, rejected).mean()
    report = prefer(explorer, pairs, Schedule(epochs=4, batch=8), beta=0.1, nll=1.0, name="eto")
    after = sums(explorer, chosen).mean() - sums(explorer, rejected).mean()
    assert after > before + 0.5
    assert report.metrics[-1]["margin"] > report.metrics[0]["margin"]


def test_without_the_nll_term_the_chosen_side_ends_lower_than_with_it(explorer: Ranker) -> None:
    pairs = some_pairs(explorer)
    ends = {}
    for nll in (0.0, 1.0):
        policy = explorer.clone()
        for parameter in policy.parameters():
            parameter.requires_grad_(True)
        prefer(policy, pairs, Schedule(epochs=10, batch=8), beta=0.1, nll=nll, name="eto")
        ends[nll] = sums(policy, [pair.chosen for pair in pairs]).mean().item()
    assert ends[1.0] > ends[0.0]


def test_the_same_seed_trains_to_the_same_weights_to_the_last_bit(explorer: Ranker) -> None:
    pairs = some_pairs(explorer)
    weights = []
    for seed in (3, 3, 4):
        policy = explorer.clone()
        for parameter in policy.parameters():
            parameter.requires_grad_(True)
        prefer(policy, pairs, Schedule(batch=4, seed=seed), beta=0.1, nll=1.0, name="eto")
        weights.append(policy.parameters()[0].detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_updates_override_epochs_and_are_counted() -> None:
    episodes = demonstrations(10)
    report = imitate(Ranker(), episodes, Schedule(epochs=99, updates=7, batch=4), "bc")
    assert report.steps == 7
    assert report.rows == 10
    by_epoch = imitate(Ranker(), episodes, Schedule(epochs=3, batch=4), "bc")
    assert by_epoch.steps == 9
    assert by_epoch.tokens == 3 * sum(len(one.turns) for one in episodes)
    assert len(by_epoch.metrics) == 3


def test_cloning_improves_a_policy(tmp_path: Path) -> None:
    policy = Ranker(seed=0)
    before = success(policy)
    cloning = BehaviourCloning(Schedule(epochs=20, batch=4, learning_rate=3e-3))
    report = cloning.train(policy, Experience(read_first()), tmp_path)
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"] / 2
    assert success(policy) >= before + 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Eto(PairRules(source="self"), schedule=Schedule(updates=40, learning_rate=3e-3)),
        lambda: RejectionSampling(schedule=Schedule(updates=40, learning_rate=3e-3)),
    ],
    ids=["eto", "rft"],
)
def test_learning_from_own_trials_improves_a_policy(
    make: Callable[[], Eto | RejectionSampling], tmp_path: Path
) -> None:
    policy = Ranker(seed=0)
    shown = read_first()
    imitate(policy, shown, Schedule(epochs=4, batch=4, learning_rate=2e-3), "bc")
    before = success(policy)
    for round_ in (1, 2):
        experience = Experience(shown, explore(policy, 40, 4, round_))
        make().train(policy, experience, tmp_path)
    assert success(policy) >= before + 0.2


def test_strict_eto_learns_from_the_experts_episodes(tmp_path: Path) -> None:
    policy = Ranker(seed=0)
    shown = read_first()
    imitate(policy, shown, Schedule(epochs=4, batch=4, learning_rate=2e-3), "bc")
    explored = explore(policy, 40, 1)
    experts = rollout(
        Expert(), Corridor, [one.task_id for one in explored], env=ENV, keep_candidates=True
    )
    algorithm = Eto(schedule=Schedule(updates=10))
    assert algorithm.needs_experts
    report = algorithm.train(policy, Experience(shown, explored, experts), tmp_path)
    assert report.algorithm == "eto"
    assert report.details["kept"] == report.rows > 0


def test_rejection_sampling_keeps_the_shortest_success_of_each_task(explorer: Ranker) -> None:
    explored = explore(explorer)
    kept = successes(explored, per_task=1)
    assert kept
    assert len({one.task_id for one in kept}) == len(kept)
    for one in kept:
        rivals = [e for e in explored if e.task_id == one.task_id and e.success]
        assert len(one.turns) == min(len(rival.turns) for rival in rivals)


def test_nothing_to_learn_from_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="collect some"):
        BehaviourCloning().train(Ranker(), Experience(), tmp_path)
    with pytest.raises(BadInput, match="without demonstrations"):
        RejectionSampling().train(Ranker(), Experience(), tmp_path)
    with pytest.raises(BadInput, match="explore more"):
        Eto().train(Ranker(), Experience(), tmp_path)
