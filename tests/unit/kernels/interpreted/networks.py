"""Whole fused networks beside the plain ones. Run by `test_interpreted.py`."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer.kernels import fuse, launch, why_not
from mlp_mixer.kernels.block import FusedBlock
from mlp_mixer.models import MixerConfig, MlpMixer

TINY = MixerConfig(4, 2, 24, 16, 32, image_size=(12, 16), num_classes=5)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    # An interpreted program takes milliseconds.
    monkeypatch.setattr(launch, "PROGRAMS", 1)


def made(**changes: object) -> MlpMixer:
    model = MlpMixer(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.05, std=0.3)
    return model


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 12, 16)


def grads(model: MlpMixer, image: Tensor, draws: Tensor | None = None) -> list[Tensor]:
    loss = model(image, draws).square().mean()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_close(ours: Tensor, plain: Tensor) -> None:
    """Up to rounding, in units of the largest number."""
    largest = float(plain.detach().abs().max())
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * largest)


def assert_all_close(ours: list[Tensor], plain: list[Tensor]) -> None:
    """As `assert_close`, in units of the largest number of all tensors."""
    largest = max(float(tensor.abs().max()) for tensor in plain)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest)


def test_nothing_changes_but_how_it_is_computed() -> None:
    model = made().eval()
    model.set_grad_checkpointing()
    fused = fuse(model)
    assert why_not(model) is None
    assert all(type(block) is FusedBlock for block in fused.blocks)
    parameters = dict(model.named_parameters())
    assert list(dict(fused.named_parameters())) == list(parameters)
    for name, parameter in fused.named_parameters():
        assert parameter is parameters[name], name
    assert list(fused.state_dict()) == list(model.state_dict())
    assert fused.config == model.config
    assert not any(module.training for module in fused.modules())
    assert fused.grad_checkpointing
    assert list(dict(fused.named_modules())) == list(dict(model.named_modules()))


@pytest.mark.parametrize(
    "changes",
    [{}, {"gelu": "erf", "final_norm": False, "norm_eps": 1e-3, "num_classes": 0}],
)
def test_logits_gradients_and_features_are_the_plain_ones(
    changes: dict[str, object],
) -> None:
    model = made(**changes)
    image = images()
    fused = fuse(model)
    assert_close(fused(image), model(image))
    assert_all_close(grads(fused, image), grads(model, image))
    ours = fused.features(image)
    theirs = model.features(image)
    assert list(ours) == list(theirs)
    # Features are computed plainly, by the same layers.
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("rule", ["paper", "timm", "deit"])
def test_stochastic_depth_follows_the_draws_or_the_generator(rule: str) -> None:
    model = made(drop_path=0.5, drop_path_rule=rule)
    image = images(6)
    fused = fuse(model)
    draws = torch.rand(6, 2, 2)
    assert_close(fused(image, draws), model(image, draws))
    assert_all_close(grads(fused, image, draws), grads(model, image, draws))
    assert not torch.allclose(fused(image, draws), fused(image, 1 - draws), atol=1e-2)
    outputs = []
    for network in (fused, model):
        torch.manual_seed(3)
        outputs.append(network(image))
    assert_close(*outputs)


def test_dropout_in_training_is_computed_plainly() -> None:
    model = made(dropout=0.5)
    image = images()
    assert "dropout" in (why_not(model) or "")
    with pytest.warns(
        UserWarning,
        match="token mixing stays plain: dropout inside the MLPs is on in training",
    ):
        assert fuse(model) is model
    fused = fuse(model.eval())
    assert not torch.equal(fused(image), model(image))
    outputs = []
    for network in (fused.train(), model.train()):
        torch.manual_seed(3)
        outputs.append(network(image))
    assert torch.equal(*outputs)


def test_autocast_takes_its_own_dtype() -> None:
    model = made()
    image = images()
    fused = fuse(model)
    exact = made().double()
    exact.load_state_dict(model.state_dict())
    with torch.autocast("cpu", torch.float16):
        ours = fused(image)
        theirs = model(image)
        loss = fused(image).float().square().mean()
    assert ours.dtype == theirs.dtype == torch.float16
    truth = exact(image.double())
    our_error = (ours - truth).abs().max()
    their_error = (theirs - truth).abs().max()
    assert our_error <= 2 * their_error + 1e-3 * truth.abs().max()
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_float64_is_computed_plainly() -> None:
    model = made()
    image = images().double()
    fused = fuse(model).double()
    assert torch.equal(fused(image), model(image))


def test_checkpointing_recomputes_the_same() -> None:
    fused = fuse(made(drop_path=0.4))
    image = images()
    draws = torch.rand(3, 2, 2)
    expected = grads(fused, image, draws)
    fused.set_grad_checkpointing()
    for again, first in zip(grads(fused, image, draws), expected, strict=True):
        assert torch.equal(again, first)


def test_training_keeps_no_result_of_gelu() -> None:
    model = made()
    image = images()
    width = model.config.channels_mlp_dim
    numbers = len(image) * model.config.num_patches * width
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    hidden: list[int] = []
    for network in (model, fuse(model)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(image)
        wide = [t for t in kept if t.shape[-1] == width and t.numel() == numbers]
        hidden.append(len(wide))
    # Of two blocks: what goes into GELU and what comes out; only what goes in.
    assert hidden == [4, 2]


def test_it_compiles_whole_and_for_any_batch() -> None:
    fused = fuse(made(drop_path=0.4))
    draws = torch.rand(8, 2, 2)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (3, 8):
        image = images(n)
        ours = grads(compiled, image, draws[:n])
        assert_all_close(ours, grads(fused, image, draws[:n]))


def test_it_exports_with_a_free_batch() -> None:
    fused = fuse(made().eval())
    shapes = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(fused, (images(),), dynamic_shapes=shapes)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.mlp_mixer.token_mix.default) == 2
    image = images(7)
    assert_close(program.module()(image), fused(image))


def test_copies_and_files_of_it_work() -> None:
    fused = fuse(made().eval())
    image = images()
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    plain = made().eval()
    plain.load_state_dict(torch.load(file))
    assert_close(plain(image), fused(image))
    average = copy.deepcopy(fused)
    nn.init.zeros_(fused.head.weight)
    assert_close(average(image), plain(image))


def test_it_trains_in_lockstep_with_the_plain_network() -> None:
    plain = made(drop_path=0.2)
    fused = fuse(copy.deepcopy(plain))
    image = images(4)
    label = torch.arange(4)
    losses: list[list[float]] = []
    for network in (plain, fused):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        curve = []
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            draws = torch.rand(4, 2, 2, generator=generator)
            loss = nn.functional.cross_entropy(network(image, draws), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        losses.append(curve)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0] / 2


def test_it_is_sharded_and_wrapped_like_the_plain_one(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    model = made()
    image = images()
    expected = model(image)
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        assert_close(DistributedDataParallel(fuse(model))(image), expected)
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        fused = fuse(model)
        for block in fused.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(fused, mesh=mesh)
        output = fused(image)
        assert_close(output, expected)
        output.sum().backward()
        assert all(p.grad is not None for p in fused.parameters())
    finally:
        distributed.destroy_process_group()
