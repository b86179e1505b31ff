"""What the loop promises bit for bit: identities between methods, resuming, and that watching changes nothing."""

from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.toy import OPTIONS, TRAINING, Toy, make_params, make_task, make_tasks, method
from trcl_policy.continual.constrained import Dual
from trcl_policy.continual.learner import Method, learn
from trcl_policy.continual.lookahead import halves
from trcl_policy.continual.methods import METHODS, Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.params import Layout, concatenate
from trcl_policy.continual.probes import held_out_loss, recover
from trcl_policy.continual.replay import NoReplay
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import TaskSequence
from trcl_policy.continual.update import Ball, Penalty, Projected, Proximal, Update

LONGER = ("replay", "trcl_mixed", "si", "packnet", "vrmcl")
"""Methods that are stopped with and without kept moments; each keeps something of its own."""


def run(how, every=4, resume=None, training=TRAINING, model=None, tasks=None, **options):
    """Weights (a copy) and position of all snapshots."""
    found, sequence = [], TaskSequence(tuple(tasks or playable_tasks()))
    for snapshot in learn(
        model or Toy(), make_params(), sequence, how, training, Streams(7), every, resume=resume, **options
    ):
        found.append((snapshot.kind, snapshot.position, snapshot.theta.clone(), snapshot.scalars))
    return found


def playable_tasks():
    """The three tasks; each can be done at will, which gives samples that depend on the weights."""

    def rehearse(kind, params, count, rng):
        return Toy().generate(params, {"kind": torch.full((count,), kind)}, rng)

    return tuple(replace(task, rehearse=partial(rehearse, number % 2)) for number, task in enumerate(make_tasks()))


def end(how, **options):
    return run(how, **options)[-1][2]


@cache
def usual_end(name):
    """Last weights of a method of the table with the usual knobs."""
    return end(method(name))


def assert_same(one, other):
    assert [(kind, position) for kind, position, *_ in one] == [(kind, position) for kind, position, *_ in other]
    for (*_, first, mine), (*_, second, theirs) in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert dict(mine) == dict(theirs)


def assert_same_weights(one, other):
    for (*_, first, _), (*_, second, _) in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def changed(name, **changes):
    """A method of the table with some of its parts replaced."""
    return replace(method(name), **changes)


@dataclass(frozen=True)
class Query(Update):
    """The gradient on every other sample of the new task and of one old task."""

    def step(self, turn):
        old = turn.recall_one()
        direction = turn.gradient_at(turn.theta, halves(turn.new)[1])
        if old is not None:
            direction = direction + turn.beta * turn.gradient_at(turn.theta, halves(old)[1], "old")
        turn.descend(direction)
        return self


@dataclass(frozen=True)
class MemoryQuery(Update):
    """The meta-gradient of one step on half of the new samples, judged on the other half and the old ones."""

    rate: float

    def step(self, turn):
        (support, query), old = halves(turn.new), turn.recall(None)
        query = query if old is None else concatenate([query, old])
        turn.descend(turn.meta_gradient(turn.theta, support, query, self.rate, True))
        return self


def stuck(name, **options):
    """A dual method whose multiplier stays at one: any excess moves it by less than the last bit of a float64."""
    return replace(method(name, **options), update=replace(method(name).update, speed=1e-300))


FINETUNE, REPLAY, EWC = method("finetune"), method("replay"), method("ewc")
IDENTITIES = {
    "zero weight is replay": (method("trcl_diag", weight=0.0), REPLAY),
    "zero lambda is replay": (method("trcl_diag", raw_lambda=0.0), REPLAY),
    "zero weight in a proximal step is replay": (method("trcl_prox", weight=0.0), REPLAY),
    "zero weight is plain replay": (method("trcl_diag_plain", weight=0.0), method("replay_plain")),
    "zero weight in a proximal step is plain replay": (method("trcl_prox_plain", weight=0.0), method("replay_plain")),
    "zero weight in a rank-1 penalty is replay": (method("trcl_rank1", weight=0.0), REPLAY),
    "zero weight in a low-rank penalty is replay": (method("trcl_lowrank", weight=0.0), REPLAY),
    "zero weight in a mixed penalty is replay": (method("trcl_mixed", weight=0.0), REPLAY),
    "no replay is ewc": (changed("trcl_diag", replay=NoReplay()), EWC),
    "rank-1 without replay is rank-1 ewc": (changed("trcl_rank1", replay=NoReplay()), method("ewc_rank1")),
    "low rank without replay is low-rank ewc": (changed("trcl_lowrank", replay=NoReplay()), method("ewc_lowrank")),
    "zero weight in a Kronecker penalty is replay": (method("trcl_kfac", weight=0.0), REPLAY),
    "zero weight in one is plain replay": (method("trcl_kfac_plain", weight=0.0), method("replay_plain")),
    "zero weight beside kept samples is replay of them": (method("trcl_kept", weight=0.0), method("replay_kept")),
    "zero weight beside kept predictions is replay of them": (method("trcl_fixed", weight=0.0), method("replay_dark")),
    "zero weight is replay of them where it would be found": (method("trcl", weight=0.0), method("replay_dark")),
    "zero lambda is, too": (method("trcl", raw_lambda=0.0), method("replay_dark")),
    "with nothing to watch the weight stays, and without replay it is kfac": (
        changed("trcl", replay=NoReplay()),
        method("ewc_kfac"),
    ),
    "kept predictions of zero beta are kfac": (method("trcl_fixed", replay_weight=0.0), method("ewc_kfac")),
    "zero beta is kfac": (method("trcl_kfac", replay_weight=0.0), method("ewc_kfac")),
    "kfac of zero weight is finetuning": (method("ewc_kfac", weight=0.0), FINETUNE),
    "zero beta is ewc": (method("trcl_diag", replay_weight=0.0), EWC),
    "zero beta and zero weight is finetuning": (method("trcl_diag", replay_weight=0.0, weight=0.0), FINETUNE),
    "ewc of zero weight is finetuning": (method("ewc", weight=0.0), FINETUNE),
    "l2 of zero weight is finetuning": (method("l2", weight=0.0), FINETUNE),
    "online ewc of zero weight is finetuning": (method("ewc_online", weight=0.0), FINETUNE),
    "si of zero weight is finetuning": (method("si", weight=0.0), FINETUNE),
    "mas of zero weight is finetuning": (method("mas", weight=0.0), FINETUNE),
    "agem without memory is finetuning": (Method(update=Projected()), FINETUNE),
    "replay of zero beta is finetuning": (method("replay", replay_weight=0.0), FINETUNE),
    "er of zero beta is finetuning": (method("er", replay_weight=0.0), FINETUNE),
    "er_distill of zero beta is finetuning": (method("er_distill", replay_weight=0.0), FINETUNE),
    "lwf of zero beta is finetuning": (method("lwf", replay_weight=0.0), FINETUNE),
    "tdgr is plain replay where nothing is guided": (method("tdgr"), method("replay_plain")),
    "keeping all generated samples and never anew is replay": (
        method("replay", replay_keep=1.0, replay_refresh=0),
        REPLAY,
    ),
    "a pool made anew after the task's end is replay": (method("replay", replay_refresh=6), REPLAY),
    "a multiplier that can't move is replay": (stuck("replay_dual"), REPLAY),
    "a multiplier that can't move is a proximal step": (
        stuck("trcl_dual"),
        method("trcl_prox"),
    ),
    "anchors kept apart are merged ones": (method("trcl_diag", keep_anchors="separate"), method("trcl_diag")),
    "anchors kept apart are merged ones of low rank": (
        method("trcl_rank1", keep_anchors="separate"),
        method("trcl_rank1"),
    ),
    "a watched penalty with nothing to watch is one of a fixed weight": (
        method("trcl", replay_apart=0.0),
        stuck("trcl", replay_apart=0.0),
    ),
    "a huge ball is replay": (method("trcl_ball", rise=1e12), REPLAY),
    "a huge ball without replay is finetuning": (Method(update=Ball(1e12), anchor=EWC.anchor), FINETUNE),
    "an anchor's proximal step over nothing is finetuning": (Method(update=Proximal()), FINETUNE),
    "ftml at a vanishing inner rate judges every task where it stands": (
        method("ftml", inner_rate=1e-300),
        changed("ftml", update=Query()),
    ),
    "first order is all that is left at a vanishing inner rate": (
        method("ftml", inner_rate=1e-300),
        method("ftml", inner_rate=1e-300, second_order=False),
    ),
    "vrmcl without momentum is its meta-gradient": (
        method("vrmcl", vr_momentum=0.0),
        changed("vrmcl", update=MemoryQuery(OPTIONS.inner_rate)),
    ),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_holds_bit_for_bit(name):
    one, other = IDENTITIES[name]
    assert_same_weights(run(one), run(other))


def test_packnet_on_one_task_is_finetuning():
    training = replace(TRAINING, ema_decay=0.0)
    one, other = (
        run(method(name), training=training, tasks=make_tasks().tasks[:1]) for name in ("packnet", "finetune")
    )
    assert_same_weights(one, other)


def test_alone_and_finetuning_differ_only_after_the_first_task():
    one, other = run(method("alone")), run(FINETUNE)
    first = len([kind for kind, position, *_ in one if position.task == 0])
    assert_same_weights(one[:first], other[:first])
    assert not torch.equal(one[first][2], other[first][2])


def test_alone_begins_every_task_with_the_first_weights():
    still = replace(TRAINING, learning_rate=1e-30, weight_decay=0.0)
    first = Layout.of(make_params()).flatten(make_params())
    assert all(torch.equal(theta, first) for *_, theta, _ in run(method("alone"), training=still))
    ends = [theta for kind, _, theta, _ in run(method("alone"), every=1, training=TRAINING) if kind == "step"]
    reach = TRAINING.learning_rate * TRAINING.steps
    assert all(float((theta - first).abs().max()) < 2 * reach for theta in ends)


def test_the_raw_teacher_is_the_averaged_one_where_nothing_is_averaged():
    training = replace(TRAINING, ema_decay=0.0)
    one, other = (run(method("replay", teacher=t), training=training) for t in ("raw", "ema"))
    assert_same_weights(one, other)
    assert not torch.equal(end(method("replay", teacher="raw")), end(REPLAY))


def test_online_ewc_of_one_old_task_is_ewc():
    one, other = run(method("ewc_online")), run(EWC)
    two_tasks = len([kind for kind, position, *_ in one if position.task < 2])
    assert_same_weights(one[:two_tasks], other[:two_tasks])
    assert not torch.equal(one[-1][2], other[-1][2])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trcl_diag", "replay"), ("trcl_diag", "ewc"), ("ewc", "finetune"), ("agem", "finetune"), ("agem", "er"),
        ("replay", "replay_plain"), ("trcl_diag", "trcl_prox"), ("trcl_diag", "trcl_kfac"), ("trcl_kfac", "trcl_rank1"),
        ("l2", "ewc"), ("joint", "finetune"), ("trcl_ball", "replay"), ("er", "replay"), ("er", "er_distill"),
        ("lwf", "replay"),
        ("si", "finetune"), ("si", "mas"), ("mas", "ewc"), ("ftml", "er"), ("ftml", "ftml_distill"), ("vrmcl", "ftml"),
        ("mer", "er"), ("lamaml", "mer"), ("packnet", "finetune"), ("trcl_mixed", "trcl_lowrank"),
        ("trcl_mixed", "trcl_diag"), ("replay_dual", "replay"), ("trcl_dual", "trcl_prox"),
        ("trcl_fixed", "trcl_kept"), ("trcl", "trcl_fixed"), ("trcl", "replay_dark"), ("trcl", "ewc_kfac"),
        ("ewc_lowrank", "ewc_rank1"), ("trcl_diag_plain", "trcl_diag"), ("trcl_prox_plain", "trcl_diag_plain"),
    ],
)  # fmt: skip
def test_methods_that_differ_in_one_part_learn_different_weights(one, other):
    found = end(method(one, rise=1e-4)) if one == "trcl_ball" else usual_end(one)
    assert not torch.equal(found, usual_end(other))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ftml", {"second_order": False}), ("ftml", {"inner_rate": 0.2}), ("vrmcl", {"vr_momentum": 0.5}),
        ("vrmcl", {"second_order": False}), ("mer", {"inner_steps": 2}), ("mer", {"inner_rate": 0.2}),
        ("lamaml", {"inner_rate": 0.05}), ("lamaml", {"rate_speed": 0.5}), ("lamaml", {"inner_steps": 2}),
        ("replay", {"replay_keep": 0.5}), ("replay", {"replay_refresh": 2}), ("replay", {"teacher": "raw"}),
        ("replay_dark", {"replay_samples": 5}), ("replay_dark", {"teacher": "raw"}),
        ("replay_dark", {"replay_draws": 3}), ("er_distill", {"dark_draws": 1}), ("er", {"memory": 5}),
        ("packnet", {"packnet_search": 0.3}),
        ("replay_dual", {"rise": 5.0}), ("replay_dual", {"dual_speed": 0.5}), ("trcl_dual", {"dual_speed": 0.5}),
        ("trcl", {"rise": 5.0}), ("trcl", {"dual_speed": 0.5}), ("trcl", {"replay_apart": 0.5}),
        ("trcl_ball", {"rise": 1e-4}), ("ewc_online", {"online_decay": 0.1}), ("si", {"si_damping": 1.0}),
        ("ewc_lowrank", {"rank": 1}), ("trcl_lowrank", {"keep_anchors": "compressed"}), ("si", {"weight": 9.0}),
        ("trcl", {"raw_lambda": 1.0}), ("trcl_diag", {"fisher_samples": 10}), ("replay", {"replay_weight": 0.5}),
        ("replay", {"replay_samples": 5}), ("replay", {"replay_ratio": 1.0}),
    ],
)  # fmt: skip
def test_every_knob_turns_something(name, changes):
    assert not torch.equal(end(method(name, **changes)), usual_end(name))


@pytest.mark.parametrize(
    ("name", "keep_optimizer"), [*((name, False) for name in METHODS), *((name, True) for name in LONGER)]
)
def test_resuming_any_snapshot_equals_never_having_stopped(name, keep_optimizer):
    training, how = replace(TRAINING, keep_optimizer=keep_optimizer), method(name, replay_refresh=4, replay_keep=0.5)
    whole, states = [], []
    tasks = TaskSequence(playable_tasks())
    for snapshot in learn(Toy(), make_params(), tasks, how, training, Streams(7), 4):
        whole.append((snapshot.kind, snapshot.position, snapshot.theta.clone(), snapshot.scalars))
        states.append(to_bytes(snapshot.state()))
    kinds = [kind for kind, *_ in whole]
    assert torch.isfinite(whole[-1][2]).all()
    assert set(kinds) == ({"step", "learned"} if name == "joint" else {"step", "learned", "settled"})
    for number, state in enumerate(states):
        assert_same(whole[number + 1 :], run(how, resume=from_bytes(state), training=training))


def test_resuming_without_averaging_equals_never_having_stopped():
    training = replace(TRAINING, ema_decay=0.0, keep_optimizer=True)
    states = [
        snapshot.state()
        for snapshot in learn(Toy(), make_params(), make_tasks(), method("trcl"), training, Streams(7), 4)
    ]
    whole = run(method("trcl"), training=training)
    for number, state in enumerate(states):
        assert_same(whole[number + 1 :], run(method("trcl"), resume=state, training=training))


def test_a_state_is_a_copy_that_later_steps_leave_alone():
    snapshots = learn(Toy(), make_params(), make_tasks(), method("trcl"), TRAINING, Streams(7), 2)
    state = next(snapshots).state()
    before = to_bytes(state)
    assert len(list(snapshots)) > 5
    assert to_bytes(state) == before


def test_a_state_names_its_parts_and_position():
    states = [s.state() for s in learn(Toy(), make_params(), make_tasks(), method("trcl"), TRAINING, Streams(7), 4)]
    assert {key.split("/")[0] for key in states[-1]} == {
        "position", "optimizer", "update", "anchor", "replay", "streams", "seconds",
    }  # fmt: skip
    assert [state["position"].tolist() for state in states[:4]] == [[0, 4, 0], [0, 6, 0], [0, 6, 1], [1, 4, 0]]


@pytest.mark.parametrize("name", ["finetune", "trcl", "agem", "joint"])
def test_how_often_one_looks_changes_nothing(name):
    wanted = end(method(name), every=1)
    for every, at in [(10**9, ()), (3, ()), (10**9, (1, 5)), (2, {3, 4})]:
        torch.testing.assert_close(end(method(name), every=every, snapshot_at=at), wanted, rtol=0, atol=0)


def test_snapshots_come_where_they_are_asked_for():
    found = [(kind, p.task, p.step) for kind, p, *_ in run(method("finetune"), every=4, snapshot_at=(1,))]
    one_task = [("step", 0, 1), ("step", 0, 4), ("learned", 0, 6), ("settled", 0, 6)]
    assert found[:4] == one_task
    assert found[-1] == ("learned", 2, 6)
    assert len(found) == 3 * 4 - 1


def test_a_seed_decides_the_run_and_another_seed_another_run():
    def last(seed):
        snapshots = learn(Toy(), make_params(), make_tasks(), method("trcl"), TRAINING, Streams(seed))
        return [s.theta.clone() for s in snapshots][-1]

    assert torch.equal(last(1), last(1))
    assert not torch.equal(last(1), last(2))


def test_first_weights_are_not_changed():
    params = make_params()
    assert len(list(learn(Toy(), params, make_tasks(), method("trcl"), TRAINING, Streams(7)))) == 5
    assert all(torch.equal(params[name], value) for name, value in make_params().items())


def test_joint_learns_all_samples_at_once_with_all_the_steps():
    found = run(method("joint"), every=100)
    assert [(kind, p.task, p.step) for kind, p, *_ in found] == [("learned", 0, 18)]
    merged = list(
        learn(Toy(), make_params(), make_tasks().merged(), Method(), replace(TRAINING, steps=18), Streams(7), 100)
    )
    torch.testing.assert_close(found[0][2], merged[-1].theta, rtol=0, atol=0)


def part(state, name):
    return {key.removeprefix(f"{name}/"): leaf for key, leaf in state.items() if key.startswith(f"{name}/")}


def written_out_gradient(theta, layout, task, settled, streams, beta):
    """Gradient of mean new loss + beta * mean distilled loss, drawn from ``streams`` as the paper's algorithm says."""
    model, replay = Toy(), part(settled, "replay")
    params = {name: p.clone().requires_grad_() for name, p in layout.unflatten(theta).items()}
    rows = torch.randint(len(task.samples), (12,), generator=streams["train/pick"])
    new = model.corrupt(task.samples.gather(rows), streams["train/noise"])
    pick = torch.randint(20, (6,), generator=streams["replay/pick"])
    old = model.corrupt({key: leaf[pick] for key, leaf in part(replay, "pool").items()}, streams["replay/noise"])
    old["target"] = model.predict(layout.unflatten(replay["teacher"]), old).detach()
    loss = model.losses(params, new).mean() + beta * model.losses(params, old).mean()
    return layout.flatten(dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True)))


def test_steps_follow_the_written_out_gradient_of_loss_distillation_and_pull():
    """Adam's first moment shows the gradient it was given; at the second step the weights have left the centre."""
    tasks = TaskSequence((make_task("a", (0,), 20, 0, torch.float64), make_task("b", (1,), 20, 1, torch.float64)))
    training = replace(TRAINING, steps=2, gradient_clip=0.0)
    how, states = method("trcl_diag", weight=2.0, replay_weight=0.7), []
    for s in learn(Toy(), make_params(torch.float64), tasks, how, training, Streams(3), 1):
        states.append(s.state())
    settled, first, second = states[2:5]
    center = settled["anchor/center"]
    torch.testing.assert_close(settled["optimizer/theta"], center, rtol=0, atol=0)
    torch.testing.assert_close(settled["replay/teacher"], center, rtol=0, atol=0)

    streams = Streams(3)
    streams.restore(part(settled, "streams"))
    wanted = 0.1 * written_out_gradient(center, s.layout, tasks[1], settled, streams, 0.7)
    torch.testing.assert_close(first["optimizer/exp_avg"], wanted, rtol=1e-12, atol=1e-15)
    here = first["optimizer/theta"]
    gradient = written_out_gradient(here, s.layout, tasks[1], settled, streams, 0.7)
    pull = 2.0 * settled["anchor/values"] * (here - center)
    assert float(pull.norm()) > 1e-3 * float(gradient.norm())
    wanted = 0.9 * wanted + 0.1 * (gradient + pull)
    torch.testing.assert_close(second["optimizer/exp_avg"], wanted, rtol=1e-12, atol=1e-15)


def test_a_learned_snapshot_releases_the_average_and_the_run_goes_on_from_it():
    last = None
    for snapshot in learn(Toy(), make_params(), make_tasks(), method("finetune"), TRAINING, Streams(7), 1):
        state = snapshot.state()
        if snapshot.kind == "step":
            assert not torch.equal(state["optimizer/theta"], snapshot.theta)
            assert torch.equal(state["optimizer/average"], snapshot.theta)
        if snapshot.kind == "learned":
            assert torch.equal(state["optimizer/theta"], state["optimizer/average"])
        last = snapshot
    assert torch.equal(last.layout.flatten(last.params), last.theta)
    assert last.params["in"].data_ptr() != last.theta.data_ptr()


def test_the_weights_of_a_learned_task_are_the_average_not_the_last_ones():
    """Averaging leaves the first task's raw weights as they are, so a run without it shows them."""
    averaged, raw = (run(method("finetune"), every=1, training=replace(TRAINING, ema_decay=e)) for e in (0.9, 0.0))
    decay = min(0.9, (1 + 5) / (10 + 5))
    wanted = decay * averaged[4][2] + (1 - decay) * raw[5][2]
    assert averaged[5][0] == "learned"
    torch.testing.assert_close(averaged[5][2], wanted)
    assert not torch.allclose(averaged[5][2], raw[5][2])


@pytest.mark.parametrize(("name", "each"), [("trcl_kfac", 20), ("trcl_fixed", 20), ("trcl", 18)])
def test_every_settled_replay_holds_all_tasks_so_far(name, each):
    """An eighth of 20 samples, two, is held out where the weight is found."""
    snapshots = learn(Toy(), make_params(), make_tasks(), method(name), TRAINING, Streams(7))
    kinds = [s.state()["replay/pool/kind"].bincount().tolist() for s in snapshots if s.kind == "settled"]
    assert kinds == [[each], [each, each]]


def test_an_anchor_that_watches_sees_the_new_tasks_own_gradient_beside_replay():
    """The path of the second task counts, replay or not; its sum is that of the new loss alone."""
    how, omegas = replace(REPLAY, anchor=method("si").anchor), []
    for snapshot in learn(Toy(), make_params(), make_tasks(), how, TRAINING, Streams(7), 3):
        omegas.append((snapshot.kind, snapshot.position.task, snapshot.state().get("anchor/omega")))
    within = [omega for kind, task, omega in omegas if kind == "step" and task == 1]
    assert len(within) == 1
    assert float(within[0].abs().max()) > 0


def test_scalars_tell_losses_penalty_and_rate():
    found = run(method("trcl_fixed"), every=1)
    first = found[0][3]
    assert set(first) == {"loss_new", "penalty", "gradient_norm", "learning_rate"}
    assert first["penalty"] == 0
    assert first["learning_rate"] == pytest.approx(TRAINING.rate_at(0, 6))
    later = found[8][3]
    assert set(later) == {*first, "loss_old"}
    assert later["penalty"] > 0


def test_replay_ratio_sets_how_many_old_samples_come_in_a_step():
    counted = []

    class Counting(Toy):
        def losses(self, params, corrupted):
            counted.append(len(corrupted["x"]))
            return super().losses(params, corrupted)

    assert run(method("er", replay_ratio=1.5), model=Counting())
    assert set(counted[:6]) == {12}
    assert set(counted[6:]) == {12, 18}


def test_recovery_is_plain_learning_that_leaves_the_weights_alone():
    params, task = make_params(), make_tasks()[0]
    found = [s.theta.clone() for s in recover(Toy(), params, task, 5, 2, seed=3, learning_rate=0.01, batch_size=8)]
    again = [s.theta.clone() for s in recover(Toy(), params, task, 5, 5, seed=3, learning_rate=0.01, batch_size=8)]
    assert len(found) == 3
    assert torch.equal(found[-1], again[-1])
    assert all(torch.equal(params[name], value) for name, value in make_params().items())
    plain = Training(steps=5, batch_size=8, learning_rate=0.01, schedule="constant", warmup=0, ema_decay=0.0)
    wanted = list(learn(Toy(), params, TaskSequence((task,)), Method(), plain, Streams(3)))[-1].theta
    assert torch.equal(found[-1], wanted)
    before = held_out_loss(Toy(), params, task, seed=0)
    after = list(recover(Toy(), params, task, 60, 60, seed=3, learning_rate=0.02))[-1]
    assert held_out_loss(Toy(), after.params, task, seed=0) < before


def test_held_out_loss_draws_by_seed_and_name_alone():
    task = make_tasks()[1]
    one = held_out_loss(Toy(), make_params(), task, seed=0)
    assert one == held_out_loss(Toy(), make_params(), task, seed=0)
    assert one != held_out_loss(Toy(), make_params(), task, seed=1)
    assert one != held_out_loss(Toy(), make_params(), replace(task, name="other"), seed=0)
    assert held_out_loss(Toy(), make_params(), replace(task, held_out=None), seed=0) is None


def test_unusable_choices_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"method must be one of finetune, .*, got 'trlc'"):
        make_method("trlc")
    with pytest.raises(ValueError, match="snapshot_every must be >= 1"):
        learn(Toy(), make_params(), make_tasks(), Method(), TRAINING, Streams(0), 0)
    for changes, message in [
        ({"replay_weight": -1.0}, "replay_weight must be >= 0, got -1"),
        ({"replay_ratio": 0.0}, "replay_ratio must be > 0, got 0"),
        ({"weight": -1.0}, "weight and lambda must be >= 0"),
        ({"raw_lambda": -1.0}, "weight and lambda must be >= 0"),
        ({"fisher_samples": 0}, "fisher_samples must be >= 1, got 0"),
        ({"replay_samples": 0}, "replay_samples must be >= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            method("trcl", **changes)
    for name, changes, message in [
        ("er", {"memory": 0}, "memory must be >= 1"),
        ("trcl_ball", {"rise": 0.0}, "rise must be > 0"),
        ("si", {"si_damping": 0.0}, "damping must be > 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            method(name, **changes)


def test_default_options_are_those_of_the_table():
    assert make_method("trcl") == make_method("trcl", Options())
    assert make_method("trcl", OPTIONS).anchor.weight == OPTIONS.weight
    assert isinstance(make_method("trcl").update, Dual)
    assert isinstance(make_method("trcl_fixed").update, Penalty)
