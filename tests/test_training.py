"""The training loop: it learns, it resumes bit for bit, it says what is wrong."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from dgrl.errors import DivergedError, InputError
from dgrl.image_bank import ImageBank
from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import LossParams, ModelParams
from dgrl.training.batches import Batches
from dgrl.training.distributed import ALONE, Ranks
from dgrl.training.params import AugmentParams, TrainParams
from dgrl.training.trainer import Losses, Run, learning_rate, train
from dgrl.weights.checkpoint import load_checkpoint
from dgrl.weights.initial import build
from dgrl.weights.published import load_model, save_model

MODEL = ModelParams(backbone="resnet18", weights="none", height=32, width=32, dimension=16, groups=4)
AUGMENT = AugmentParams(pad=2)


def train_params(**changes: object) -> TrainParams:
    values = {
        "persons_per_batch": 4,
        "pairs_per_person": 2,
        "epochs": 2,
        "precision": "float32",
    }
    return TrainParams.parse(values | changes, "train")


def banks(persons: int = 6, images: int = 4) -> tuple[ImageBank, ImageBank]:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (persons, 1, 3, 1, 1))
    noise = rng.integers(-30, 30, (2, persons, images, 3, 32, 32))
    pixels = np.clip(colours + noise, 0, 255).astype(np.uint8).reshape(2, -1, 3, 32, 32)
    keys = pd.DataFrame(
        {
            "image_id": [f"{p}_{i}" for p in range(persons) for i in range(images)],
            "person_id": [str(p) for p in range(persons) for _ in range(images)],
        }
    )
    return ImageBank(torch.from_numpy(pixels[0]), keys), ImageBank(torch.from_numpy(pixels[1]), keys)


class Curve:
    """Collects the log; raises once, when a step has been logged, as a kill would stop the loop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.metrics: dict[int, dict[str, float]] = {}
        self.stop_after = stop_after

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics[step] = dict(metrics)
        if self.stop_after is not None and step >= self.stop_after:
            raise KeyboardInterrupt


def prepare(
    hr: ImageBank,
    sr: ImageBank,
    params: TrainParams,
    model: ModelParams = MODEL,
    augment: AugmentParams = AUGMENT,
    ranks: Ranks = ALONE,
) -> tuple[DGRL, Losses, Batches]:
    """What ``train`` takes, as the stage makes it."""
    batches = Batches(hr, sr, augment, params, torch.device("cpu"), ranks)
    losses = partial(loss_terms, params=LossParams(), gather=ranks.all_gather)
    return build(model, batches.persons, params.seed)[0], losses, batches


def run(
    checkpoint: Path,
    curve: Curve,
    params: TrainParams,
    model: ModelParams = MODEL,
    *,
    log_every: int = 2,
    checkpoint_every: int = 3,
) -> DGRL:
    network, losses, batches = prepare(*banks(), params, model)
    train(
        network,
        losses,
        batches,
        params,
        checkpoint,
        curve,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
    )
    return network


def test_the_loss_falls(tmp_path: Path) -> None:
    curve = Curve()
    run(tmp_path / "checkpoint", curve, train_params(epochs=12, learning_rate=0.005))
    steps = sorted(curve.metrics)
    assert curve.metrics[steps[-1]]["loss/id"] < 0.8 * curve.metrics[steps[0]]["loss/id"]


def test_no_epochs_leave_the_network_as_it_was_built(tmp_path: Path) -> None:
    params, curve = train_params(epochs=0, ema_decay=0.9), Curve()
    model = run(tmp_path / "checkpoint", curve, params)
    assert not curve.metrics
    assert not model.training
    for name, tensor in build(MODEL, 6, params.seed)[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_after", [4, 5, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, precision: str, stop_after: int) -> None:
    params = train_params(precision=precision, epochs=3, ema_decay=0.9)  # 9 steps, checkpoints at 3, 6 and 9
    whole, first, second = Curve(), Curve(stop_after), Curve()
    expected = run(tmp_path / "whole", whole, params).state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", first, params)
    state = load_checkpoint(tmp_path / "cut")
    assert state is not None
    assert 0 < state["step"] < 9
    resumed = run(tmp_path / "cut", second, params).state_dict()
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name
    losses = [
        {step: {n: v for n, v in f.items() if n != "images_per_second"} for step, f in c.metrics.items()}
        for c in (whole, second)
    ]
    assert losses[0] == losses[1]  # the curves are whole too


def test_the_result_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    checkpoint, weights = tmp_path / "checkpoint", []

    def keep(step: int, metrics: Mapping[str, float]) -> None:
        if state := load_checkpoint(checkpoint):  # of the step before
            weights.append({name: tensor.double() for name, tensor in state["model"].items()})

    params = train_params(ema_decay=0.8)
    model, losses, batches = prepare(*banks(), params)
    train(model, losses, batches, params, checkpoint, keep, log_every=1, checkpoint_every=1)
    keep(0, {})
    average = weights[0]
    for state in weights[1:]:
        average = {name: 0.8 * tensor + 0.2 * state[name] for name, tensor in average.items()}
    assert len(weights) == 6
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), average[name], rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU (make gpu)")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_a_gpu() -> None:
    device = torch.device("cuda")
    hr, sr = (ImageBank(bank.images.to(device), bank.keys) for bank in banks())
    params = train_params(ema_decay=0.9, clip_norm=1.0)
    batches = Batches(hr, sr, AUGMENT, params, device, ALONE)
    run = Run.start(build(MODEL, batches.persons, params.seed)[0], params, device)

    def step() -> None:
        """As in ``train``."""
        batch = batches(run.step)
        terms = loss_terms(run.model(batch.hr, batch.sr), batch.targets, LossParams())
        run.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), params.clip_norm)
        run.optimizer.step()
        run.update_ema()
        run.step += 1

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, None), (0.25, 0.25), (1e6, None)])
def test_the_norm_of_the_gradient_is_clipped(
    tmp_path: Path, clip_norm: float, expected: float | None
) -> None:
    """SGD's momentum after the first step is the gradient."""
    params = train_params(clip_norm=clip_norm, weight_decay=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "checkpoint", Curve(stop_after=2), params, checkpoint_every=1)
    state = load_checkpoint(tmp_path / "checkpoint")
    assert state is not None
    assert state["step"] == 1
    momenta = [each["momentum_buffer"].flatten().double() for each in state["optimizer"]["state"].values()]
    norm = float(torch.cat(momenta).norm())
    assert norm == pytest.approx(expected, rel=1e-3) if expected else norm > 1


@pytest.mark.parametrize(
    ("changes", "name", "ratio"),
    [
        ({}, "layer1.0.conv1.weight", 1.0),
        ({"pretrained_rate": 0.1}, "layer1.0.conv1.weight", 0.1),
        ({"pretrained_rate": 0.1}, "layer1.0.conv2.weight", 1.0),
        ({"nesterov": True, "momentum": 0.75}, "layer1.0.conv1.weight", 1.75),
        ({"warmup_epochs": 1, "warmup_rate": 0.0026}, "layer1.0.conv1.weight", 0.2),
    ],
)
def test_the_first_step_follows_the_gradient_at_its_rate(
    changes: dict[str, float], name: str, ratio: float, tmp_path: Path
) -> None:
    """Relative to a plain step; Nesterov's first is 1 + momentum times as long."""

    def step(params: TrainParams) -> torch.Tensor:
        model, losses, batches = prepare(*banks(), params)
        before = model.get_parameter(name).detach().clone()
        checkpoint, pretrained = tmp_path / f"{hash(params)}", {"layer1.0.conv1.weight"}
        log = Curve(stop_after=1)
        with pytest.raises(KeyboardInterrupt):
            train(model, losses, batches, params, checkpoint, log, pretrained=pretrained, log_every=1)
        return model.get_parameter(name).detach() - before

    plain, changed = (step(train_params(weight_decay=0.0, **values)) for values in ({}, changes))
    torch.testing.assert_close(changed, ratio * plain, rtol=1e-3, atol=1e-7)


def batch_norms(network: DGRL) -> dict[str, _BatchNorm]:
    return {name: each for name, each in network.named_modules() if isinstance(each, _BatchNorm)}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_frozen_batch_norms_stay_as_they_were_and_the_others_learn(tmp_path: Path, ema_decay: float) -> None:
    params = train_params(freeze_batch_norm=True, ema_decay=ema_decay, learning_rate=0.01)
    network, losses, batches = prepare(*banks(), params)
    pretrained = {name for name in network.state_dict() if not name.startswith("heads.")}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, losses, batches, params, tmp_path / "checkpoint", Curve(), pretrained=pretrained)
    names = batch_norms(network)
    assert len(names) > 20
    for name in names:
        for tensor, after in names[name].state_dict().items():
            frozen = not name.startswith("heads.") or tensor == "bias"  # a BNNeck's never learns
            assert torch.equal(before[f"{name}.{tensor}"], after) == frozen, f"{name}.{tensor}"
    assert not torch.equal(before["layer1.0.conv1.weight"], network.state_dict()["layer1.0.conv1.weight"])


def test_a_resumed_run_with_frozen_batch_norms_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    params = train_params(freeze_batch_norm=True)  # 6 steps, checkpoints at 3 and 6
    switches = dict.fromkeys(("restormer", "non_local", "side_branches", "galn"), False)

    def weights(checkpoint: str, curve: Curve) -> dict[str, torch.Tensor]:
        network, losses, batches = prepare(*banks(), params, MODEL.model_copy(update=switches))
        names = {name for name in network.state_dict() if not name.startswith("heads.")}
        path = tmp_path / checkpoint
        train(network, losses, batches, params, path, curve, pretrained=names, checkpoint_every=3)
        return network.state_dict()

    expected = weights("whole", Curve())
    with pytest.raises(KeyboardInterrupt):
        weights("cut", Curve(stop_after=6))
    for name, tensor in weights("cut", Curve()).items():
        assert torch.equal(tensor, expected[name]), name


def test_frozen_batch_norms_compute_as_in_evaluation(tmp_path: Path) -> None:
    """By their formula, and so that a step's losses are those of a network in evaluation mode."""
    params = train_params(freeze_batch_norm=True)
    network, losses, batches = prepare(*banks(), params)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.uniform_(buffer, -0.1, 0.1)
        elif name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2.0)
    batch = batches(0)
    with torch.no_grad():
        expected = losses(network.eval()(batch.hr, batch.sr), batch.targets)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    norm = batch_norms(network)["layer1.0.bn1"]
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    curve = Curve(stop_after=1)
    names = set(network.state_dict())
    with pytest.raises(KeyboardInterrupt):
        train(network, losses, batches, params, tmp_path / "c", curve, pretrained=names, log_every=1)
    for name, value in expected.items():
        assert curve.metrics[1][f"loss/{name}"] == pytest.approx(float(value), rel=1e-4), name
    inputs, outputs = (each.detach() for each in seen[0])  # clones: the ReLU that follows is in place
    mean, variance, weight, bias = (
        norm.state_dict()[part][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    torch.testing.assert_close(outputs, (inputs - mean) / (variance + norm.eps).sqrt() * weight + bias)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    weights = [run(tmp_path / str(s), Curve(), train_params(seed=s)).heads[0] for s in (0, 1)]
    first, second = (head.state_dict()["classifier.weight"] for head in weights)
    assert not torch.equal(first, second)


def test_every_term_the_rate_and_the_speed_are_logged(tmp_path: Path) -> None:
    curve = Curve()
    run(tmp_path / "checkpoint", curve, train_params())
    assert sorted(curve.metrics) == [2, 3, 4, 6]
    terms = ["id", "id_side2", "id_side3", "wrt", "wrt_side2", "wrt_side3", "l1", "kl"]
    metrics = curve.metrics[6]
    assert set(metrics) == {f"loss/{t}" for t in [*terms, "total"]} | {"learning_rate", "images_per_second"}
    assert metrics["loss/total"] == pytest.approx(sum(metrics[f"loss/{t}"] for t in terms), rel=1e-5)


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    params = train_params(learning_rate=1e18, warmup_epochs=0)
    with pytest.raises(DivergedError, match=r"not finite at step \d+ \(id .*learning rate 1e\+18\); lower"):
        run(tmp_path / "checkpoint", Curve(), params)
    assert load_checkpoint(tmp_path / "checkpoint") is None


def test_divergence_of_the_last_step_alone_names_its_learning_rate(tmp_path: Path) -> None:
    params = train_params(learning_rate=1e39, warmup_epochs=0, epochs=1)
    with pytest.raises(DivergedError, match=r"after step 1 \(learning rate 1e\+39\) the tensor .*; lower"):
        run(tmp_path / "checkpoint", Curve(), params, log_every=9, checkpoint_every=1)
    assert not (tmp_path / "checkpoint").exists()


def test_divergence_names_the_rate_of_the_schedule_not_that_of_loaded_weights(tmp_path: Path) -> None:
    params = train_params(learning_rate=1e40, pretrained_rate=0.1, warmup_epochs=0, epochs=1)
    network, losses, batches = prepare(*banks(), params)
    loaded = set(network.state_dict())
    with pytest.raises(DivergedError, match=r"after step 1 \(learning rate 1e\+40\)"):
        train(
            network, losses, batches, params, tmp_path / "c", Curve(),
            pretrained=loaded, log_every=9, checkpoint_every=1,
        )  # fmt: skip


def test_too_few_persons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"persons_per_batch = 7, but the training set has only 6 persons"):
        run(tmp_path / "checkpoint", Curve(), train_params(persons_per_batch=7))


def test_images_without_twins() -> None:
    hr, sr = banks()
    sr = ImageBank(sr.images[1:], sr.keys[1:])
    with pytest.raises(InputError, match="without a twin, first 0_0"):
        prepare(hr, sr, train_params())


def test_schedule_is_the_papers_step_decay_after_a_linear_warm_up() -> None:
    schedule = partial(learning_rate, train_params(epochs=70, learning_rate=0.013, warmup_epochs=2), 10)
    assert [schedule(step) for step in (20, 299)] == [0.013, 0.013]
    assert [schedule(step) for step in (300, 599)] == pytest.approx([0.0013, 0.0013])
    assert schedule(600) == pytest.approx(0.00013)
    assert schedule(0) == pytest.approx(0.00013)
    assert schedule(10) == pytest.approx(0.013 * 0.505)


def test_the_warm_up_may_have_a_constant_rate() -> None:
    params = train_params(epochs=70, learning_rate=0.013, warmup_epochs=5, warmup_rate=3e-4)
    schedule = partial(learning_rate, params, 10)
    assert [schedule(step) for step in (0, 25, 49, 50, 299)] == [3e-4, 3e-4, 3e-4, 0.013, 0.013]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(InputError, match=r"train: nesterov needs a momentum above 0"):
        train_params(nesterov=True, momentum=0.0)


def test_a_published_model_comes_back(tmp_path: Path) -> None:
    model = DGRL(MODEL, persons=5).eval()
    save_model(tmp_path / "model.safetensors", model, MODEL, 5)
    loaded, params = load_model(tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert params == MODEL
    assert torch.equal(loaded.embed(images, "sr"), model.embed(images, "sr"))


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    """safetensors orders the entries of a header's metadata at random: more than one would be a toss-up."""
    model = DGRL(MODEL, 5)
    written = set()
    for attempt in range(16):
        path = tmp_path / f"{attempt}.safetensors"
        save_model(path, model, MODEL, 5)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; write it first"):
        load_model(tmp_path / "missing.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="its header has no entry 'dgrl'"):
        load_model(tmp_path / "other.safetensors")
