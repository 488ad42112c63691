"""loci.RandomBases: its formulas from the stored basis, its workers, its state, and its operators from the compiler."""

import math

import pytest
import torch

import loci


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))


def set_gradients(model, seed):
    torch.manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn_like(p)


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def stored(n, directions, *key):
    """The directions [d, n], from sums with one coefficient of 1."""
    rows = []
    for i in range(directions):
        row = torch.zeros(n, dtype=torch.float64)
        loci.ops.random_basis_add_(row, torch.ones(1, dtype=torch.float64), 1.0, i, *key)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("compartments", ["one", "per_tensor"])
@pytest.mark.parametrize("values", ["normal", "signs"])
def test_a_step_is_that_of_the_stored_basis(compartments, values):
    model = network()
    optimizer = loci.RandomBases(
        model.parameters(), lr=2.0, directions=25, compartments=compartments, values=values, seed=3
    )
    kind = ["normal", "signs"].index(values)
    for step in range(2):
        set_gradients(model, step)
        before = flat(model.parameters())
        gradients = [p.grad.reshape(-1).double() for p in model.parameters()]
        parts = [torch.cat(gradients)] if compartments == "one" else gradients
        shares = [25] if compartments == "one" else [19, 1, 4, 1]
        expected = []
        for i, (gradient, directions) in enumerate(zip(parts, shares, strict=True)):
            phi = stored(gradient.numel(), directions, 3, step, i, kind)
            scale = gradient.numel() / directions * 25 / 754
            expected.append(scale * phi.T @ (phi @ gradient))
        optimizer.step()
        moved = flat(model.parameters()) - before
        torch.testing.assert_close(moved.double(), -2 * torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_the_cosine_of_step_and_gradient_is_the_root_of_the_share():
    p = torch.nn.Parameter(torch.zeros(50_000))
    optimizer = loci.RandomBases([p], lr=1.0, directions=500, seed=0)
    torch.manual_seed(0)
    p.grad = torch.randn_like(p)
    cosines = []
    for _ in range(20):
        p.data.zero_()
        optimizer.step()
        cosines.append(-torch.cosine_similarity(p.data, p.grad, dim=0).item())
    assert math.isclose(sum(cosines) / 20, math.sqrt(500 / 50_000), rel_tol=0.03)


def test_two_ranks_have_the_bits_of_one():
    alone, worker = network(), network()
    one = loci.RandomBases(alone.parameters(), lr=0.5, directions=31, compartments="per_tensor", seed=1)
    two = loci.RandomBases(worker.parameters(), lr=0.5, directions=31, compartments="per_tensor", seed=1)
    for step in range(3):
        set_gradients(alone, step)
        set_gradients(worker, step)
        one.step()
        exchanged = [two.coefficients(rank, 2) for rank in range(2)]
        assert [c.shape for c in exchanged] == [(31,), (31,)]
        two.move(exchanged[0] + exchanged[1])
        assert flat(alone.parameters()).equal(flat(worker.parameters()))


def test_fixed_bases_stay_and_others_change():
    def moved(fixed, steps):
        p = torch.nn.Parameter(torch.zeros(100))
        optimizer = loci.RandomBases([p], lr=1.0, directions=5, fixed=fixed, seed=0)
        p.grad = torch.ones(100)
        for _ in range(steps):
            p.data.zero_()
            optimizer.step()
        return p.detach().clone()

    assert moved(True, 2).equal(moved(True, 1))
    assert not moved(False, 2).equal(moved(False, 1))


def test_the_state_goes_on_bit_for_bit_and_groups_have_their_rates():
    def made(model, seed):
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.0}]
        return loci.RandomBases(groups, lr=0.1, directions=8, seed=seed)

    whole, half = network(), network()
    start = flat(half[2].parameters())
    optimizer, begun = made(whole, 4), made(half, 4)
    for step in range(4):
        if step == 2:
            resumed = made(half, 9)
            resumed.load_state_dict(begun.state_dict())
            begun = resumed
        for model, rule in ((whole, optimizer), (half, begun)):
            set_gradients(model, step)
            rule.step()
    assert flat(whole.parameters()).equal(flat(half.parameters()))
    assert flat(half[2].parameters()).equal(start)
    assert not flat(half[0].parameters()).equal(flat(network()[0].parameters()))


def test_it_trains_a_network():
    torch.manual_seed(0)
    x = torch.randn(300, 20)
    y = (x[:, :4] + x[:, 4:8]).argmax(1)
    model = network()
    optimizer = loci.RandomBases(model.parameters(), lr=2.0, directions=100, seed=0)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_refusals_name_what_was_expected():
    model = network()
    with pytest.raises(ValueError, match=r"from 1 \(the compartments\) to 754 \(the weights\), got 755"):
        loci.RandomBases(model.parameters(), lr=1.0, directions=755)
    with pytest.raises(ValueError, match=r"from 4 \(the compartments\)"):
        loci.RandomBases(model.parameters(), lr=1.0, directions=3, compartments="per_tensor")
    with pytest.raises(ValueError, match="values must be one of normal, signs, got 'uniform'"):
        loci.RandomBases(model.parameters(), lr=1.0, values="uniform")
    with pytest.raises(ValueError, match="lr must be"):
        loci.RandomBases(model.parameters(), lr=-1.0)


def test_opcheck():
    x = torch.randn(300)
    for operator, arguments in (
        (loci.ops.random_basis_dot, (x, 0, 5, 1, 2, 3)),
        (loci.ops.random_basis_add_, (x.clone(), torch.randn(5), 0.5, 0, 1, 2, 3, 1)),
    ):
        result = torch.library.opcheck(operator, arguments)
        assert set(result.values()) == {"SUCCESS"}, result
