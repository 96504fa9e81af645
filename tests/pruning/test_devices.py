"""Nothing of the pruning assumes that all is on the CPU."""

import pytest
import torch

from espnet_prune.config.sections import MODEL_DIM, SparsityOptions
from espnet_prune.pruning.controller import SparsityController
from espnet_prune.pruning.iterative import MagnitudeController
from espnet_prune.pruning.projection import project
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.pruning.slicing import sliced
from tests.fixtures.gated import CASES
from tests.pruning.two_devices import HERE, THERE, TwoDevices, is_there, move, there

SPARSITY = {"target": 0.6, "kind": "params+macs"}


def test_devices_meet_as_cuda_has_it():
    """So the test would have seen that a choice of channels made on the CPU was
    indexed by an order made on the GPU."""
    with TwoDevices():
        x, y = there(torch.arange(4.0)), torch.ones(4)
        assert (x.device, y.device) == (THERE, HERE)
        for made in (x + 1, x * y.to(THERE), x[:2], x.sort()[1], torch.zeros_like(x)):
            assert made.device == THERE
        assert x.new_zeros(2).device == torch.arange(3, device=x.device).device == THERE
        assert (x.cpu() + y).device == HERE and not is_there(y)
        assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
        assert x[torch.tensor([0, 2])].device == THERE
        y.copy_(x)
        for mixed in (
            lambda: x + y,
            lambda: torch.cat([x, y]),
            lambda: y[x.long()],
            lambda: y.__setitem__(x.topk(2).indices, 100.0),
            lambda: x.index_copy(0, torch.tensor([1]), x[:1]),
        ):
            with pytest.raises(RuntimeError, match="on two devices"):
                mixed()


@pytest.fixture(params=["pretended", "real"])
def device(request):
    """``device(gated, *modules)``: puts all of it on a device that is not the CPU."""
    if request.param == "real" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.param == "real":
        yield lambda gated, *more: [m.cuda() for m in (gated.module, *more)]
    else:
        with TwoDevices():
            yield lambda gated, *more: [move(m) for m in (gated.module, *more)]


def made(name):
    sizes = {} if name == "decoder" else {"output_size": 32}
    return CASES[name].make(dtype=torch.float32, **sizes)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_pruning_and_its_export(name, device):
    gated = made(name)
    options, gates = SparsityOptions(**SPARSITY), gated.gates(1.0, 1.0).train()
    controller = SparsityController(options, gated.budget(**SPARSITY)).train()
    controller.total_steps = 10
    x = gated.inputs(50, 31)
    heard = [part for part in x if isinstance(part, torch.nn.Module)]  # CTC, of some
    device(gated, gates, controller, *heard)
    where = gates.log_alpha.device
    x = tuple(part.to(where) if isinstance(part, torch.Tensor) else part for part in x)
    loss, stats = controller(gates, gated.tensors())
    gated_loss = gated(gates(), x)[0].square().mean()
    (loss + gated_loss).backward()
    assert gates.log_alpha.grad.isfinite().all()
    assert {value.device for value in stats.values()} == {where}
    own = project(gates, gated.budget(**SPARSITY)).values
    assert own.device == HERE
    left = sliced(gated.layout, gated.tensors(), own)
    assert {tensor.device for tensor in left.values()} == {where}
    gates.mask = own
    assert gates().device == where


@pytest.mark.parametrize("method", ["magnitude", "random", "blocks"])
@pytest.mark.parametrize("name", ["conformer", "conformer_dim", "e_branchformer"])
def test_the_choices_of_other_methods(name, method, device):
    gated = made(name)
    gates = gated.gates()
    budget = gated.budget(**SPARSITY)
    before = scores_of(method, budget, gated.tensors(), 0)
    device(gated, gates)
    scores = scores_of(method, budget, gated.tensors(), 0)
    assert scores.device == HERE and torch.equal(scores, before)
    settle(gates, budget, scores)
    assert gates.log_alpha.device != HERE and not gates.is_open().all()


def test_iterative_magnitude_with_a_model_dimension(device):
    gated = made("conformer_dim")
    gates, options = gated.gates(), SparsityOptions(by="magnitude", warmup=0.5)
    controller = MagnitudeController(options, gated.budget()).train()
    controller.total_steps = 4
    device(gated, gates, controller)
    for _ in range(3):
        loss, _ = controller(gates, gated.tensors())
    assert loss.device == gates.mask.device == gates.log_alpha.device
    dims = gates.mask[gated.layout.span(MODEL_DIM)]
    assert 0 < dims.mean() < 1
