"""Whole fused networks beside the plain ones. Run by `test_interpreted.py`."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer.kernels import fuse, ops, why_not
from mlp_mixer.kernels.block import FusedBlock
from mlp_mixer.models import MixerConfig, MlpMixer

TINY = MixerConfig(4, 2, 24, 16, 32, image_size=(12, 16), num_classes=5)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "PROGRAMS", 1)  # an interpreted one takes milliseconds


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


def assert_all_close(a: list[Tensor], b: list[Tensor]) -> None:
    largest = max(float(t.abs().max()) for t in b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest)


def test_nothing_changes_but_how_it_is_computed() -> None:
    model = made().eval()
    model.set_grad_checkpointing()
    fused = fuse(model)
    assert why_not(model) is None
    assert all(type(block) is FusedBlock for block in fused.blocks)
    assert [(name, id(p)) for name, p in fused.named_parameters()] == [
        (n, id(p)) for n, p in model.named_parameters()
    ]
    assert list(fused.state_dict()) == list(model.state_dict())
    assert fused.config == model.config
    assert not any(module.training for module in fused.modules())
    assert fused.grad_checkpointing
    assert [name for name, _ in fused.named_modules()] == [
        name for name, _ in model.named_modules()
    ]


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
    torch.testing.assert_close(fused(image), model(image), rtol=1e-4, atol=1e-4)
    assert_all_close(grads(fused, image), grads(model, image))
    ours = fused.features(image)
    theirs = model.features(image)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("rule", ["paper", "timm"])
def test_stochastic_depth_follows_the_draws_or_the_generator(rule: str) -> None:
    model = made(drop_path=0.5, drop_path_rule=rule)
    image = images(6)
    fused = fuse(model)
    draws = torch.rand(6, 2, 2)
    torch.testing.assert_close(
        fused(image, draws), model(image, draws), rtol=1e-4, atol=1e-4
    )
    assert_all_close(grads(fused, image, draws), grads(model, image, draws))
    assert not torch.allclose(fused(image, draws), fused(image, 1 - draws), atol=1e-2)
    outputs = []
    for network in (fused, model):
        torch.manual_seed(3)
        outputs.append(network(image))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


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
    assert (ours - truth).abs().max() <= 2 * (
        theirs - truth
    ).abs().max() + 1e-3 * truth.abs().max()
    loss.backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters()
    )


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
    assert all(
        torch.equal(a, b)
        for a, b in zip(grads(fused, image, draws), expected, strict=True)
    )


def test_training_keeps_no_result_of_gelu() -> None:
    model = made()
    image = images()
    rows = len(image) * model.config.num_patches
    width = model.config.channels_mlp_dim
    wide: list[int] = []
    for network in (model, fuse(model)):
        seen: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: seen.append(t) or t, lambda t: t
        ):
            network(image)
        wide.append(
            sum(t.shape[-1] == width and t.numel() == rows * width for t in seen)
        )
    assert wide == [
        4,
        2,
    ]  # of two blocks: what goes into GELU and what comes out; what goes in


def test_it_compiles_whole_and_for_any_batch() -> None:
    fused = fuse(made(drop_path=0.4))
    draws = torch.rand(8, 2, 2)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (3, 8):
        image = images(n)
        assert_all_close(
            grads(compiled, image, draws[:n]), grads(fused, image, draws[:n])
        )


def test_it_exports_with_a_free_batch() -> None:
    fused = fuse(made().eval())
    program = torch.export.export(
        fused, (images(),), dynamic_shapes={"image": {0: torch.export.Dim("batch")}}
    )
    calls = [
        node
        for node in program.graph.nodes
        if node.target is torch.ops.mlp_mixer.token_mix.default
    ]
    assert len(calls) == 2
    image = images(7)
    torch.testing.assert_close(program.module()(image), fused(image))


def test_copies_and_files_of_it_work() -> None:
    fused = fuse(made().eval())
    image = images()
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    plain = made().eval()
    plain.load_state_dict(torch.load(file))
    torch.testing.assert_close(plain(image), fused(image), rtol=1e-4, atol=1e-4)
    average = copy.deepcopy(fused)
    nn.init.zeros_(fused.head.weight)
    torch.testing.assert_close(average(image), plain(image), rtol=1e-4, atol=1e-4)


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
            loss = nn.functional.cross_entropy(
                network(image, torch.rand(4, 2, 2, generator=generator)), label
            )
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
        torch.testing.assert_close(
            DistributedDataParallel(fuse(model))(image), expected, rtol=1e-4, atol=1e-4
        )
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        fused = fuse(model)
        for block in fused.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(fused, mesh=mesh)
        output = fused(image)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        output.sum().backward()
        assert all(p.grad is not None for p in fused.parameters())
    finally:
        distributed.destroy_process_group()
