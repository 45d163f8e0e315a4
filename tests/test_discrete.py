"""Discrete attributes: three ways in which noise picks a state, held against twin networks, rejection and closed forms."""

import itertools
import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from scipy import stats

import causalcf as ccf
from causalcf import training
from causalcf.attributes import response
from causalcf.attributes.categorical import Categorical
from causalcf.attributes.flow import Flow
from causalcf.attributes.monotone import Monotone
from causalcf.attributes.response import ResponseType, exact_counterfactual
from causalcf.errors import AbductionError, DataError, GraphError, NotFittedError
from causalcf.graph import CausalGraph, Node
from causalcf.seeds import RowGenerator
from causalcf.testing import check_mechanism

# under the null hypothesis a p-value below this turns up once in ten thousand seeds; the seeds are fixed
P_VALUE = 1e-4
AGE = Node("age", "continuous", unit="year")
SEX = Node("sex", "categorical", states=["f", "m", "other"])
TREATED = Node("treated", "binary")
NODES = {node.name: node for node in (AGE, SEX, TREATED)}
STAGE = ["I", "II", "III", "IV"]


def rows(n, seed=0, stream="test"):
    return RowGenerator(seed, np.arange(n, dtype=np.uint64), stream)


def parents_of(names, n, seed=1):
    draw = rows(n, seed, "parents")
    every = {
        "age": 50 + 10 * draw.normal(),
        "sex": (3 * draw.uniform()).long(),
        "treated": (2 * draw.uniform()).long(),
    }
    return {name: every[name] for name in names}


def prepared(scheme, model, names, n=400):
    """A mechanism on random data, its trained parameters moved as if it had learned something."""
    parents = parents_of(names, n)
    value = (4 * rows(n, 2).uniform() ** 2).long()
    mechanism = scheme(model=model)
    mechanism.prepare(Node("stage", "ordinal", states=STAGE, parents=names), [NODES[name] for name in names], value, parents)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in mechanism.parameters():
            if parameter.requires_grad:
                parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return mechanism.eval()


def listed(names):
    """Response types with probabilities of their own, some of them zero."""
    shape = (*(len(NODES[name].states) for name in names), 4)
    weight = np.random.default_rng(8).dirichlet(np.full(4 ** math.prod(shape[:-1]), 0.3))
    weight[weight < np.quantile(weight, 0.2)] = 0
    return ResponseType(types=weight / weight.sum(), shape=shape)


DISCRETE, MIXED = ("sex", "treated"), ("sex", "age")
CASES = {}
for _scheme in (Categorical, Monotone, ResponseType):
    for _model, _names in (
        ("network", ()),
        ("network", DISCRETE),
        ("network", MIXED),
        ("ordered", ("treated",)),
        ("ordered", MIXED),
        ("table", DISCRETE),
    ):
        if _scheme is not ResponseType or "age" not in _names:
            CASES[f"{_scheme.__name__}, {_model}, {'+'.join(_names) or 'root'}"] = (prepared, (_scheme, _model, _names), _names)
CASES["ResponseType, types, sex"] = (listed, (("sex",),), ("sex",))
CASES["ResponseType, types, root"] = (listed, ((),), ())
every_case = pytest.mark.parametrize(("make", "settings", "names"), CASES.values(), ids=CASES.keys())


def known(scheme, table):
    return scheme(probabilities=table)


def random_table(seed, *shape, concentration=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], concentration), size=shape[:-1])


def possible(mechanism, parents, n, seed=9):
    """A value a row, drawn from p(x | pa) without the mechanism's own noise, and the probabilities."""
    with torch.no_grad():
        p = mechanism.log_probabilities(parents).exp().expand(n, mechanism.states)
    return (rows(n, seed).uniform(1) > p.cumsum(1)[:, :-1]).sum(1), p


# ---- what every discrete mechanism promises


@every_case
def test_predict_undoes_abduct(make, settings, names):
    mechanism, n = make(*settings), 2000
    parents = parents_of(names, n)
    value, _ = possible(mechanism, parents, n)
    assert torch.equal(mechanism.predict(mechanism.abduct(value, parents, generator=rows(n)), parents), value)


@every_case
def test_draws_have_the_probabilities_that_the_loss_is_made_of(make, settings, names):
    mechanism, n = make(*settings), 20_000
    for row in range(2):
        parents = {name: column[row].expand(n) for name, column in parents_of(names, 5).items()}
        value = mechanism.predict(mechanism.draw_noise(rows(n)), parents)
        every = {name: column[:4] for name, column in parents.items()}
        with torch.no_grad():
            p = torch.exp(-mechanism.loss(torch.arange(4), every))
        assert value.dtype == torch.int64
        assert abs(float(p.sum()) - 1) < 1e-12
        assert ((torch.bincount(value, minlength=4) / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


@every_case
def test_abducted_noise_pooled_over_the_values_is_the_prior(make, settings, names):
    mechanism, n = make(*settings), 8000
    parents = parents_of(names, n)
    value, _ = possible(mechanism, parents, n)
    noise = mechanism.abduct(value, parents, generator=rows(n)).reshape(n, -1)
    law = stats.gumbel_r if isinstance(mechanism, Categorical) else stats.uniform
    for column in noise.T:
        assert stats.kstest(column.numpy(), law.cdf).pvalue > P_VALUE
    ranks = torch.from_numpy(stats.rankdata(noise.numpy(), axis=0).T)
    if len(ranks) > 1:
        # the standard deviation of a rank correlation of independent columns is 1 / sqrt(n)
        assert float((torch.corrcoef(ranks) - torch.eye(len(ranks))).abs().max()) < 5 / math.sqrt(n)


@every_case
def test_the_noise_that_is_drawn_has_the_shape_and_law_of_the_prior(make, settings, names):
    mechanism = make(*settings)
    prior, noise = mechanism.noise_prior(), mechanism.draw_noise(rows(5000))
    assert noise.shape == (5000, *prior.event_shape)
    assert noise.dtype == prior.sample().dtype == torch.float64
    law = stats.gumbel_r if isinstance(mechanism, Categorical) else stats.uniform
    assert stats.kstest(noise.numpy().ravel(), law.cdf).pvalue > P_VALUE
    assert prior.log_prob(noise).shape == (5000,)


@every_case
def test_a_row_gets_the_same_answer_alone_and_in_a_batch(make, settings, names):
    mechanism, n = make(*settings), 30
    parents = parents_of(names, n)
    value, _ = possible(mechanism, parents, n)
    together = mechanism.abduct(value, parents, generator=rows(n))
    for row in range(n):
        only = slice(row, row + 1)
        alone = {name: column[only] for name, column in parents.items()}
        noise = mechanism.abduct(value[only], alone, generator=rows(n).rows(only))
        # matrix products of one row and of thirty may add in another order: rounding of float64
        torch.testing.assert_close(noise[0], together[row], rtol=1e-12, atol=1e-12)
        assert mechanism.predict(together[only], alone)[0] == value[row]


@every_case
def test_a_saved_mechanism_gives_identical_answers(make, settings, names, tmp_path):
    mechanism, n = make(*settings), 200
    parents = parents_of(names, n)
    value, _ = possible(mechanism, parents, n)
    mechanism.save(tmp_path)
    again = type(mechanism).load(tmp_path)
    noise = mechanism.abduct(value, parents, generator=rows(n))
    assert torch.equal(again.abduct(value, parents, generator=rows(n)), noise)
    assert torch.equal(again.predict(noise, parents_of(names, n, 4)), mechanism.predict(noise, parents_of(names, n, 4)))
    assert torch.equal(again.loss(value, parents), mechanism.loss(value, parents))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@every_case
def test_the_joint_distribution_has_the_probabilities_as_its_margins(make, settings, names):
    mechanism, n = make(*settings), 50
    here, there = parents_of(names, n, 1), parents_of(names, n, 2)
    joint = mechanism.joint(here, there)
    for parents, axis in ((here, -1), (there, -2)):
        with torch.no_grad():
            p = mechanism.log_probabilities(parents).exp()
        # a dozen additions of float64; the thresholds give a possible state at least 2^-40 of the interval
        torch.testing.assert_close(joint.sum(axis), p, rtol=0, atol=5e-12)
    assert (joint >= 0).all()
    still = mechanism.joint(here, here)
    torch.testing.assert_close(still, torch.diag_embed(torch.diagonal(still, dim1=-2, dim2=-1)), rtol=0, atol=0)


@every_case
def test_the_joint_distribution_is_that_of_one_noise_under_two_sets_of_parents(make, settings, names):
    mechanism, n = make(*settings), 40_000
    noise = mechanism.draw_noise(rows(n))
    here, there = ({k: v[:1] for k, v in parents_of(names, 3, seed).items()} for seed in (1, 2))
    first, second = (
        mechanism.predict(noise, {name: column.expand(n) for name, column in parents.items()}) for parents in (here, there)
    )
    p = mechanism.joint(here, there).reshape(-1)
    found = torch.bincount(first * 4 + second, minlength=16) / n
    assert ((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_no_discrete_mechanism_claims_to_know_the_noise(scheme):
    assert not scheme.identified
    assert scheme.exact
    with pytest.raises(NotFittedError, match=f"this {scheme.__name__} was never fitted"):
        scheme().predict(torch.zeros(3), {})
    with pytest.raises(NotFittedError, match="never fitted"):
        scheme().noise_prior()


# ---- the probabilities


def test_a_table_is_the_smoothed_frequencies():
    parents = {"sex": torch.tensor([0, 0, 0, 1, 1, 0]), "treated": torch.tensor([0, 0, 0, 1, 1, 1])}
    value = torch.tensor([0, 0, 1, 2, 2, 1])
    mechanism = Monotone(model="table", smoothing=0.5)
    mechanism.prepare(Node("x", "ordinal", states=[1, 2, 3], parents=DISCRETE), [SEX, TREATED], value, parents)
    half = torch.tensor([[2.5, 1.5, 0.5], [0.5, 1.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 2.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(mechanism.table(), (half / half.sum(1, keepdim=True)).double())
    assert not list(mechanism.parameters())
    p = mechanism.log_probabilities({"treated": torch.tensor([1]), "sex": torch.tensor([0])}).exp()  # by name, not by order
    torch.testing.assert_close(p, torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64))


@pytest.mark.parametrize("model", ["network", "table", "ordered"])
@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_a_root_has_the_frequencies_of_its_column_and_nothing_to_train(scheme, model):
    mechanism = scheme(model=model, smoothing=1)
    mechanism.prepare(Node("x", "ordinal", states=[1, 2, 3]), [], torch.tensor([0, 0, 0, 1]), {})
    with torch.no_grad():
        p = mechanism.log_probabilities({}).exp()
    torch.testing.assert_close(p, torch.tensor([4 / 7, 2 / 7, 1 / 7], dtype=torch.float64))
    assert not any(parameter.requires_grad for parameter in mechanism.parameters())


def test_a_proportional_odds_model_is_recovered(monkeypatch):
    monkeypatch.setattr(training, "_ATTRIBUTE_STEPS", 300)
    n = 6000
    age, u = rows(n, 3).normal(), rows(n, 4).uniform()
    true = torch.sigmoid(torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64) - 1.2 * age[:, None])
    stage = (u[:, None] > true).sum(1)
    graph = CausalGraph("g", [AGE, Node("stage", "ordinal", states=STAGE, parents=["age"])])
    frame = pd.DataFrame({"age": age, "stage": np.array(STAGE)[stage]})
    scm = ccf.SCM(graph, {"age": Flow(bins=0), "stage": Monotone(model="ordered", hidden=4)})
    mechanism = ccf.fit(scm, ccf.Batch(graph, frame)).mechanisms["stage"]
    grid = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    with torch.no_grad():
        found = mechanism.log_probabilities({"age": grid}).exp().cumsum(1)[:, :-1]
    expected = torch.sigmoid(torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64) - 1.2 * grid[:, None])
    # 16 parameters miss a probability by about sqrt(16 p (1 - p) / n), p (1 - p) at most a quarter: 0.026; twice that
    assert float((found - expected).abs().max()) < 0.052


def test_an_ordered_model_keeps_its_digits_in_the_tails():
    mechanism = prepared(Monotone, "ordered", MIXED)
    parents = {"sex": torch.zeros(4, dtype=torch.int64), "age": torch.tensor([-1e4, -500.0, 600.0, 1e4], dtype=torch.float64)}
    with torch.no_grad():
        log_p = mechanism.log_probabilities(parents)
    assert torch.isfinite(log_p).all()
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    shift = torch.tensor([[0.3], [-35.0]], dtype=torch.float64)
    cuts = torch.cat([mechanism.root[:1], mechanism.root[:1] + mechanism.root[1:].exp().cumsum(0)]).detach()
    by_hand = np.diff(stats.logistic.cdf(np.pad((cuts - shift[:1]).numpy(), ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))))
    with torch.no_grad():
        np.testing.assert_allclose(mechanism._between_cutpoints(shift)[:1].exp().numpy(), by_hand, rtol=1e-12)


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_a_known_table_needs_no_fit_and_fitting_leaves_it_alone(scheme):
    table = [[0.9, 0.1], [0.25, 0.75]]
    graph = CausalGraph("g", [TREATED, Node("well", "binary", parents=["treated"])])
    scm = ccf.SCM(graph, {"treated": scheme(probabilities=[0.5, 0.5]), "well": scheme(probabilities=table)})
    drawn = scm.sample(4000, seed=1)
    for treated in (0, 1):
        well = drawn.frame.query("treated == @treated")["well"]
        p = table[treated][1]
        assert abs(well.mean() - p) < 5 * math.sqrt(p * (1 - p) / len(well))
    always = pd.DataFrame({"treated": [0, 1] * 50, "well": 1})
    fitted = ccf.fit(scm, ccf.Batch(graph, always))
    assert fitted.mechanisms["well"].table().tolist() == table
    assert fitted.mechanisms["well"].spec["parents"] == [{"name": "treated", "states": 2}]


def test_the_shipped_digit_still_loads_and_answers(shipped):
    digit = shipped.mechanisms["digit"]
    with torch.no_grad():
        p = digit.log_probabilities({}).exp()
    assert type(digit) is Categorical
    assert digit.settings["model"] == "network"
    # what the file holds, to the digits that are written here
    np.testing.assert_allclose(p[:3].numpy(), [0.09654, 0.10231, 0.10846], atol=5e-6)
    # trained by steps, not counted: within .002 of how often each digit stands in the training split
    seen = ccf.MorphoMNIST("train").frame(2600)["digit"].value_counts(normalize=True).sort_index()
    np.testing.assert_allclose(p.numpy(), seen.to_numpy(), atol=2e-3)
    assert abs(float(p.sum()) - 1) < 1e-12


# ---- exact counterfactuals, against a twin network built in pgmpy


def random_scm(seed):
    """A random discrete SCM of three or four nodes with two or three states, its mechanisms known."""
    draw = np.random.default_rng(seed)
    nodes, mechanisms = [], {}
    for place in range(draw.integers(3, 5)):
        name = f"n{place}"
        earlier = [node for node in nodes if draw.random() < 0.7][-2:]
        states = int(draw.integers(2, 4))
        shape = (*(len(node.states) for node in earlier), states)
        configurations = math.prod(shape[:-1])
        concentration = draw.choice([0.3, 1.0])
        schemes = ["monotone"]
        if states == 2:
            schemes.append("gumbel")
        if states**configurations <= 81:
            schemes += ["types", "independent"]
        scheme = draw.choice(schemes)
        table = draw.dirichlet(np.full(states, concentration), size=shape[:-1])
        if scheme == "types":
            weight = draw.dirichlet(np.full(states**configurations, concentration))
            weight[(draw.random(len(weight)) < 0.2) & (weight < weight.max())] = 0
            mechanisms[name] = ResponseType(types=weight / weight.sum(), shape=shape)
        else:
            kind = {"monotone": Monotone, "gumbel": Categorical, "independent": ResponseType}[scheme]
            mechanisms[name] = kind(probabilities=table)
        labels = [f"{name}{letter}" for letter in "abc"[:states]]
        nodes.append(Node(name, "ordinal", states=labels, parents=[node.name for node in earlier]))
    return CausalGraph(f"random{seed}", nodes), mechanisms


def twin_network(graph, mechanisms, do):
    """Both worlds in one Bayesian network: a node's two copies share their response type; `do` cuts the second one's parents."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    edges, tables = [], []
    for name in graph.order:
        parents, states = graph.parents(name), len(graph.node(name).states)
        types, weight = mechanisms[name].response_types()
        sizes = [len(graph.node(parent).states) for parent in parents]
        values = np.zeros((states, len(weight), *sizes))
        for kind, codes in itertools.product(range(len(weight)), itertools.product(*map(range, sizes))):
            configuration = int(np.ravel_multi_index(codes, sizes)) if sizes else 0
            values[(int(types[kind, configuration]), kind, *codes)] = 1
        tables.append(TabularCPD(f"u_{name}", len(weight), weight.numpy()[:, None]))
        for mark in ("", "*"):
            if mark and name in do:
                tables.append(TabularCPD(name + mark, states, np.eye(states)[:, [do[name]]]))
                continue
            evidence = [f"u_{name}", *(parent + mark for parent in parents)]
            edges += [(cause, name + mark) for cause in evidence]
            tables.append(TabularCPD(name + mark, states, values.reshape(states, -1), evidence, [len(weight), *sizes]))
    network = DiscreteBayesianNetwork(edges)
    network.add_nodes_from([table.variable for table in tables])
    network.add_cpds(*tables)
    return network


def twin_answer(graph, mechanisms, factual, do, nodes):
    from pgmpy.inference import VariableElimination

    network = twin_network(graph, mechanisms, do)
    asked = [f"{name}*" for name in nodes]
    answer = VariableElimination(network).query(asked, evidence=factual, show_progress=False)
    order = [answer.variables.index(name) for name in asked]
    return np.transpose(answer.values, order).reshape(-1)


@pytest.mark.parametrize("seed", range(24))
def test_an_exact_counterfactual_is_that_of_the_twin_network(seed):
    graph, mechanisms = random_scm(seed)
    draw = np.random.default_rng(1000 + seed)
    row = {name: int(code) for name, code in unit(graph, mechanisms, seed).items()}
    seen = {name: code for name, code in row.items() if seed % 3 == 0 or draw.random() < 0.6}
    do = {name: int(draw.integers(len(graph.node(name).states))) for name in graph.order[:-1] if draw.random() < 0.5}
    nodes = [name for name in graph.order if name not in do]
    nodes = list(draw.permutation(nodes)[: draw.integers(1, 3)])
    expected = twin_answer(graph, mechanisms, seen, do, nodes)
    found = exact_counterfactual(graph, mechanisms, labels_of(graph, seen), labels_of(graph, do), nodes=nodes)
    # both add up a few hundred products in float64; a possible state keeps at least 2^-40 of a threshold's interval
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=0, atol=1e-9)
    assert abs(found.sum() - 1) < 1e-12
    assert list(found.index.names) == nodes


def labels_of(graph, codes):
    return {name: graph.node(name).states[code] for name, code in codes.items()}


def unit(graph, mechanisms, seed):
    """The codes of one unit, drawn from the model."""
    draw = RowGenerator(seed, np.zeros(1, dtype=np.uint64), "unit")
    values = {}
    for name in graph.order:
        parents = {parent: values[parent] for parent in graph.parents(name)}
        values[name] = mechanisms[name].predict(mechanisms[name].draw_noise(draw.stream(name)), parents)
    return {name: value.item() for name, value in values.items()}


def chain(scheme, seed=0):
    """A -> B -> C with A -> C, three states each, known probabilities."""
    graph = CausalGraph(
        "chain",
        [
            Node("a", "ordinal", states=[0, 1, 2]),
            Node("b", "ordinal", states=["low", "mid", "high"], parents=["a"]),
            Node("c", "ordinal", states=[10, 20, 30], parents=["b", "a"]),
        ],
    )
    mechanisms = {
        "a": scheme(probabilities=random_table(seed, 3)),
        "b": scheme(probabilities=random_table(seed + 1, 3, 3)),
        "c": scheme(probabilities=random_table(seed + 2, 3, 3, 3)),
    }
    return graph, mechanisms


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_counterfactual_draws_have_the_exact_distribution(scheme):
    graph, mechanisms = chain(scheme)
    n, factual, do = 20_000, {"a": 0, "b": "mid", "c": 30}, {"a": 2}
    exact = exact_counterfactual(graph, mechanisms, factual, do, nodes=["b", "c"])
    answer = ccf.counterfactual(ccf.SCM(graph, mechanisms), ccf.Batch(graph, pd.DataFrame(factual, index=range(n))), do)
    found = answer.frame.groupby(["b", "c"]).size().reindex(exact.index, fill_value=0) / n
    assert ((found - exact).abs() <= 5 * np.sqrt(exact * (1 - exact) / n) + 1e-12).all()
    assert not answer.identified.any()
    assert set(answer.why_not) == {"b", "c"}


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_counterfactual_draws_are_those_of_rejection_sampling(scheme):
    graph, mechanisms = chain(scheme, seed=5)
    factual, n = {"a": 1, "b": 0, "c": 2}, 60_000
    noise = {name: mechanism.draw_noise(rows(n, 6).stream(name)) for name, mechanism in mechanisms.items()}
    scm = ccf.SCM(graph, mechanisms)
    values = scm.predict(noise)
    kept = torch.stack([values[name] == code for name, code in factual.items()]).all(0)
    moved = scm.predict({name: draw[kept] for name, draw in noise.items()}, {"a": torch.full((int(kept.sum()),), 2)})
    assert kept.sum() > 1000
    found = torch.bincount(moved["b"] * 3 + moved["c"], minlength=9).numpy() / int(kept.sum())
    exact = exact_counterfactual(graph, mechanisms, labels_of(graph, factual), {"a": 2}, nodes=["b", "c"]).to_numpy()
    assert (np.abs(found - exact) <= 5 * np.sqrt(exact * (1 - exact) / int(kept.sum())) + 1e-12).all()


def test_an_exact_counterfactual_takes_continuous_parents_that_are_observed_or_set():
    mechanism = prepared(Categorical, "network", MIXED)
    graph = CausalGraph("g", [AGE, SEX, Node("stage", "ordinal", states=STAGE, parents=MIXED)])
    sex, age = Categorical(probabilities=[0.5, 0.3, 0.2]), Flow(bins=0)
    age.prepare(AGE, [], torch.tensor([30.0, 50.0, 70.0], dtype=torch.float64), {})
    mechanisms = {"age": age, "sex": sex, "stage": mechanism}
    factual = {"age": 60.0, "sex": "m", "stage": "II"}
    found = exact_counterfactual(graph, mechanisms, factual, {"age": 40.0})
    here, there = ({"sex": torch.tensor([1]), "age": torch.tensor([value])} for value in (60.0, 40.0))
    joint = mechanism.joint(here, there)[0, 1]
    np.testing.assert_allclose(found.to_numpy(), (joint / joint.sum()).numpy(), rtol=1e-12)
    with pytest.raises(DataError, match=r"'age', which is continuous, a Flow.*Observe 'age'"):
        exact_counterfactual(graph, mechanisms, {"stage": "II"}, {"sex": "f"})


def test_causes_that_the_intervention_cuts_off_are_not_summed_over():
    graph = CausalGraph("g", [AGE, Node("treated", "binary", parents=["age"]), Node("well", "binary", parents=["treated"])])
    mechanisms = {"age": Flow(), "treated": Monotone(), "well": Monotone(probabilities=[[0.7, 0.3], [0.4, 0.6]])}
    assert exact_counterfactual(graph, mechanisms, {}, {"treated": 1}).to_dict() == pytest.approx({0: 0.4, 1: 0.6}, abs=1e-12)


def test_without_an_intervention_the_exact_answer_is_bayes_rule():
    graph, mechanisms = chain(Monotone)
    found = exact_counterfactual(graph, mechanisms, {"c": 20}, {}, nodes=["a"])
    a, b, c = (mechanisms[name].table().numpy() for name in "abc")
    posterior = np.einsum("a,ab,ba->a", a[0], b, c.reshape(3, 3, 3)[:, :, 1])
    np.testing.assert_allclose(found.to_numpy(), posterior / posterior.sum(), atol=1e-11)


def test_with_nothing_observed_the_exact_answer_is_the_interventional_distribution():
    graph, mechanisms = chain(ResponseType)
    found = exact_counterfactual(graph, mechanisms, {}, {"b": "high"})
    a, c = mechanisms["a"].table().numpy()[0], mechanisms["c"].table().numpy().reshape(3, 3, 3)[2]
    assert list(found.index) == [10, 20, 30]
    np.testing.assert_allclose(found.to_numpy(), a @ c, atol=1e-12)


# ---- response types


TYPED = {
    "monotone": lambda: Monotone(probabilities=random_table(0, 2, 3, 3)),
    "binary gumbel": lambda: Categorical(probabilities=random_table(1, 2, 3, 2)),
    "gumbel root": lambda: Categorical(probabilities=random_table(2, 3)),
    "independent": lambda: ResponseType(probabilities=random_table(3, 2, 2, 2)),
    "types": lambda: ResponseType(types=random_table(4, 81), shape=(2, 2, 3)),
}


@pytest.mark.parametrize("make", TYPED.values(), ids=TYPED.keys())
def test_response_types_are_what_the_noise_does_to_all_configurations(make):
    mechanism, n = make(), 20_000
    types, weight = mechanism.response_types()
    sizes = mechanism.configurations
    noise, columns = mechanism.draw_noise(rows(n)), []
    for codes in itertools.product(*map(range, sizes)):
        parents = {f"p{place}": torch.full((n,), code) for place, code in enumerate(codes)}
        columns.append(mechanism.predict(noise, parents))
    powers = mechanism.states ** torch.arange(len(columns))
    drawn = torch.stack(columns, 1) @ powers
    number = types @ powers
    assert torch.isin(drawn, number[weight > 0]).all()
    assert len(torch.unique(number)) == len(number)
    assert abs(float(weight.sum()) - 1) < 1e-12
    found = (drawn[:, None] == number).double().mean(0)
    assert ((found - weight).abs() <= 5 * (weight * (1 - weight) / n).sqrt() + 1e-12).all()


def test_response_types_are_listed_in_the_documented_order():
    weight = np.arange(1, 10) / 45
    mechanism = ResponseType(types=weight, shape=(2, 3))
    types, probability = mechanism.response_types()
    assert types.tolist() == [list(outcome) for outcome in itertools.product(range(3), repeat=2)]
    np.testing.assert_allclose(probability.numpy(), weight)
    assert mechanism.table()[1].tolist() == pytest.approx(
        [weight[[0, 3, 6]].sum(), weight[[1, 4, 7]].sum(), weight[[2, 5, 8]].sum()]
    )


def test_the_noise_of_given_types_is_abducted_from_the_posterior_over_types():
    mechanism, n = ResponseType(types=[0.2, 0.5, 0.0, 0.3], shape=(2, 2)), 20_000
    # who died untreated is doomed (00) or would be helped (01): 0.2 to 0.5
    noise = mechanism.abduct(torch.zeros(n, dtype=torch.int64), {"t": torch.zeros(n, dtype=torch.int64)}, generator=rows(n))
    treated = mechanism.predict(noise, {"t": torch.ones(n, dtype=torch.int64)}).double().mean()
    assert abs(float(treated) - 5 / 7) < 5 * math.sqrt(5 / 7 * 2 / 7 / n)


def test_independent_response_types_draw_anew_where_a_parent_moves():
    table = [[0.9, 0.1], [0.4, 0.6]]
    mechanism = ResponseType(probabilities=table)
    joint = mechanism.joint({"t": torch.tensor([0, 1])}, {"t": torch.tensor([1, 1])})
    np.testing.assert_allclose(joint[0].numpy(), np.outer(*table))
    np.testing.assert_allclose(joint[1].numpy(), np.diag(table[1]))


def test_gumbel_noise_over_three_states_has_no_finite_form_and_says_so():
    with pytest.raises(DataError, match=r"over 3 states has no finite form\. Use joint"):
        Categorical(probabilities=random_table(0, 2, 3)).response_types()


def test_types_that_are_too_many_are_an_error():
    with pytest.raises(DataError, match=r"3\^9 response types; at most 4096"):
        ResponseType(probabilities=random_table(0, 9, 3)).response_types()
    with pytest.raises(DataError, match=r"2\^13 response types; at most 4096"):
        ResponseType(types=[1.0], shape=(13, 2))
    with pytest.raises(DataError, match="'age' is continuous: only discrete parents have configurations"):
        prepared(Monotone, "network", MIXED).response_types()


# ---- the probabilities of necessity and sufficiency


@pytest.mark.parametrize(("without", "treated"), [(0.3, 0.6), (0.7, 0.2), (0.05, 0.95)])
def test_necessity_and_sufficiency_are_their_closed_forms(without, treated):
    # J. Tian, J. Pearl, 2000: under monotonicity PNS = p1 - p0, PN = PNS / p1, PS = PNS / (1 - p0); where treatment harms, zero
    table = [[1 - without, without], [1 - treated, treated]]
    control, case = {"t": torch.tensor([0])}, {"t": torch.tensor([1])}
    found = {}
    for scheme in (Categorical, Monotone, ResponseType):
        both = known(scheme, table).joint(control, case)[0]  # [untreated, treated]
        pns = float(both[0, 1])
        found[scheme] = (pns, pns / treated, pns / (1 - without))
    benefit = max(treated - without, 0)
    for scheme in (Monotone, Categorical):  # two Gumbels differ by one logistic noise: a threshold, whatever the names
        assert found[scheme] == pytest.approx((benefit, benefit / treated, benefit / (1 - without)), abs=1e-11)
    assert found[ResponseType] == pytest.approx((treated * (1 - without), 1 - without, treated), abs=1e-11)


def test_with_three_states_gumbel_noise_is_no_threshold():
    # p = (1/3, 1/3, 1/3) and q = (1/2, 1/4, 1/4): from the third state, a threshold moves people to the second one, by rank,
    # Gumbel-max only to the first one, which alone gained
    table = [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 4, 1 / 4]]
    here, there = {"t": torch.tensor([0])}, {"t": torch.tensor([1])}
    gumbel, threshold = (known(scheme, table).joint(here, there)[0].numpy() for scheme in (Categorical, Monotone))
    np.testing.assert_allclose(gumbel, [[1 / 3, 0, 0], [1 / 12, 1 / 4, 0], [1 / 12, 0, 1 / 4]], atol=1e-12)
    np.testing.assert_allclose(threshold, [[1 / 3, 0, 0], [1 / 6, 1 / 6, 0], [0, 1 / 12, 1 / 4]], atol=1e-12)


def test_staying_put_under_gumbel_noise_is_the_probability_jaccard_index():
    # R. Moulton, Y. Jiang, 2018: sum over j of 1 / sum over i of max(p_i / p_j, q_i / q_j)
    p, q = random_table(3, 2, 5)
    joint = Categorical(probabilities=[p, q]).joint({"t": torch.tensor([0])}, {"t": torch.tensor([1])})[0]
    jaccard = sum(1 / np.maximum(p / p[j], q / q[j]).sum() for j in range(5))
    assert float(joint.diagonal().sum()) == pytest.approx(jaccard, abs=1e-14)


def test_a_gumbel_state_that_gained_most_is_never_left():
    p, q = random_table(4, 2, 5)
    joint = Categorical(probabilities=[p, q]).joint({"t": torch.tensor([0])}, {"t": torch.tensor([1])})[0].numpy()
    for j, k in itertools.permutations(range(5), 2):  # counterfactual stability: j to k only if k gained more than j
        assert (joint[j, k] > 0) == (q[k] / p[k] > q[j] / p[j])


# ---- traps


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_a_null_intervention_changes_no_class_however_improbable(scheme):
    # published code truncated the losing Gumbels at the wrong value: 2 to 20 % of the classes changed
    table = np.array([[1 - 3e-7 - 1e-15, 1e-7, 1e-15, 2e-7], [1e-30, 0.5, 1e-20, 0.5 - 1e-20]])
    mechanism, n = known(scheme, table), 8000
    parents = {"t": torch.arange(n) % 2}
    value = torch.arange(n) // 2 % 4
    noise = mechanism.abduct(value, parents, generator=rows(n))
    assert torch.equal(mechanism.predict(noise, parents), value)
    assert torch.isfinite(noise).all()


@pytest.mark.parametrize("scheme", [Monotone, ResponseType])
def test_the_ends_of_an_interval_belong_to_its_state(scheme, monkeypatch):
    mechanism, n = known(scheme, random_table(0, 50, 4, concentration=0.1)), 200
    value, parents = torch.arange(n) % 4, {"t": torch.arange(n) // 4}
    for extreme in (2.0**-53, 1 - 2.0**-53):
        monkeypatch.setattr(RowGenerator, "uniform", lambda self, *shape, u=extreme: torch.full((n, *shape), u).double())
        assert torch.equal(mechanism.predict(mechanism.abduct(value, parents, generator=rows(n)), parents), value)


def test_the_ends_of_an_interval_belong_to_its_type(monkeypatch):
    mechanism, n = ResponseType(types=random_table(0, 81, concentration=0.05), shape=(4, 3)), 12
    value, parents = torch.arange(n) % 3, {"t": torch.arange(n) // 3}
    for extreme in (2.0**-53, 0.5, 1 - 2.0**-53):
        monkeypatch.setattr(RowGenerator, "uniform", lambda self, *shape, u=extreme: torch.full((n, *shape), u).double())
        assert torch.equal(mechanism.predict(mechanism.abduct(value, parents, generator=rows(n)), parents), value)


def test_each_class_has_a_gumbel_of_its_own():
    # one draw shared by all classes turns sampling into argmax: true probability .622, observed 1.000
    mechanism, n = Categorical(probabilities=[0.622, 0.378]), 20_000
    noise = mechanism.draw_noise(rows(n))
    assert (noise[:, 0] != noise[:, 1]).all()
    assert abs(float((mechanism.predict(noise, {}) == 0).double().mean()) - 0.622) < 5 * math.sqrt(0.622 * 0.378 / n)


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_an_impossible_state_is_never_predicted_and_cannot_be_abducted(scheme):
    table = [[0.0, 0.5, 0.0, 0.5], [0.3, 0.0, 0.7, 0.0]]
    mechanism, n = known(scheme, table), 4000
    for state in (1, 3):
        value, here = torch.full((n,), state), {"t": torch.zeros(n, dtype=torch.int64)}
        noise = mechanism.abduct(value, here, generator=rows(n))
        assert torch.isfinite(noise).all()
        assert torch.equal(mechanism.predict(noise, here), value)
        assert set(mechanism.predict(noise, {"t": torch.ones(n, dtype=torch.int64)}).tolist()) <= {0, 2}
    edge = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    if scheme is Monotone:
        assert mechanism.predict(edge, {"t": torch.zeros(3, dtype=torch.int64)}).tolist() == [1, 1, 3]
    with pytest.raises(AbductionError, match=r"2 of 3 values are impossible.*first one state number 2 at position 1"):
        mechanism.abduct(torch.tensor([1, 2, 2]), {"t": torch.zeros(3, dtype=torch.int64)}, generator=rows(3))


def test_an_impossible_type_cannot_be_abducted():
    mechanism = ResponseType(types=[0, 1, 0, 0], shape=(2, 2))  # 0 untreated, 1 treated
    with pytest.raises(AbductionError, match="1 of 2 values are impossible"):
        mechanism.abduct(torch.tensor([1, 1]), {"t": torch.tensor([1, 0])}, generator=rows(2))
    graph = CausalGraph("g", [TREATED, Node("well", "binary", parents=["treated"])])
    mechanisms = {"treated": Monotone(probabilities=[0.5, 0.5]), "well": mechanism}
    with pytest.raises(AbductionError, match="'well': 1} has probability zero"):
        exact_counterfactual(graph, mechanisms, {"treated": 0, "well": 1}, {"treated": 1})
    assert exact_counterfactual(graph, mechanisms, {"treated": 0}, {"treated": 1}).to_dict() == {0: 0.0, 1: 1.0}


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_predictions_stay_among_the_declared_states(scheme):
    graph, mechanisms = chain(scheme, seed=11)
    scm = ccf.SCM(graph, mechanisms)
    batch = scm.sample(2000, seed=3)
    answer = ccf.counterfactual(scm, batch, {"a": 1})
    for name in ("a", "b", "c"):
        assert set(answer.frame[name]) <= set(graph.node(name).states)
    null = ccf.counterfactual(scm, batch, {"a": batch.frame["a"]})
    pd.testing.assert_frame_equal(null.frame, batch.frame)


@pytest.mark.parametrize("scheme", [Categorical, Monotone, ResponseType])
def test_the_pyro_program_intervenes_as_the_model_does(scheme):
    graph, mechanisms = chain(scheme, seed=2)
    scm, n = ccf.SCM(graph, mechanisms), 500
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = pyro.poutine.trace(scm.program).get_trace(n)
    noise = {name: trace.nodes[f"{name}.noise"]["value"] for name in graph.order}
    do = {"b": torch.full((n,), 2)}
    treated = pyro.poutine.do(pyro.condition(scm.program, {f"{name}.noise": u for name, u in noise.items()}), do)(n)
    for name, value in scm.predict(noise, do).items():
        assert torch.equal(treated[name], value)
    assert torch.isfinite(trace.log_prob_sum())


# ---- mistakes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Categorical(model="tabel"), "model='tabel' is none of: network, table, ordered"),
        (lambda: Monotone(smoothing=0), "smoothing=0 makes no sense"),
        (lambda: Monotone(probabilities="half"), "takes an array of numbers"),
        (lambda: Monotone(probabilities=0.5), r"has shape \(\)"),
        (lambda: Monotone(probabilities=[[1.0]]), "two states or more"),
        (lambda: Monotone(probabilities=[-0.5, 1.5]), "negative, missing or infinite"),
        (lambda: Monotone(probabilities=[math.nan, 1.0]), "negative, missing or infinite"),
        (lambda: Monotone(probabilities=[[0.5, 0.5], [0.5, 0.6]]), "sums to 1.1 for the parents' states number 1, not to 1"),
        (lambda: Monotone(probabilities=[0.333, 0.333, 0.333]), "sums to 0.999, not to 1. Divide"),
        (lambda: Monotone(probabilities=np.full((4097, 2), 0.5)), "4097 configurations"),
        (lambda: Monotone(model="table", probabilities=[0.5, 0.5]), "exclude each other"),
        (lambda: ResponseType(types=[0.5, 0.5]), "types and shape belong together"),
        (
            lambda: ResponseType(types=[0.5, 0.5], shape=(2, 2)),
            r"shape \(2,\), but shape=\(2, 2\) has 4 response types",
        ),
        (lambda: ResponseType(types=[0.5, 0.6], shape=(2,)), "their sum is 1, not 1.1"),
        (lambda: ResponseType(types=[1.0], shape=(2.0,)), "takes whole numbers"),
        (lambda: ResponseType(types=[0.5, 0.5], shape=(2,), model="table"), "Leave out model and probabilities"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(make, words):
    with pytest.raises(DataError, match=words):
        make()


@pytest.mark.parametrize(
    ("mechanism", "kind", "names", "words"),
    [
        (Categorical(model="table"), "ordinal", MIXED, "'x' has the continuous parent 'age': a table needs discrete parents"),
        (ResponseType(), "ordinal", MIXED, "continuous parent 'age': a response type needs discrete parents"),
        (Monotone(model="ordered"), "categorical", (), "'x' is categorical, its states have no order. Make it ordinal"),
        (Monotone(), "continuous", (), "'x' is continuous: Monotone is for binary, ordinal and categorical"),
        (
            Monotone(probabilities=random_table(0, 2, 3, 4)),
            "ordinal",
            DISCRETE,
            r"probabilities of 'x' have shape \(2, 3, 4\), but .* need \(3, 2, 4\): 3 for 'sex', 2 for 'treated', 4 for 'x'",
        ),
        (Monotone(probabilities=random_table(0, 3)), "ordinal", (), r"shape \(3,\), but .* need \(4,\)"),
    ],
)
def test_a_mechanism_that_does_not_fit_its_node_is_an_error_that_names_it(mechanism, kind, names, words):
    node = Node("x", kind, states=None if kind == "continuous" else STAGE, parents=names)
    with pytest.raises(DataError, match=words):
        mechanism.prepare(node, [NODES[name] for name in names], torch.zeros(4, dtype=torch.int64), parents_of(names, 4))


def test_a_table_with_too_many_configurations_is_an_error():
    wide = [Node(f"p{place}", "categorical", states=list(range(17))) for place in range(3)]
    node = Node("x", "binary", parents=[parent.name for parent in wide])
    parents = {parent.name: torch.zeros(3, dtype=torch.int64) for parent in wide}
    with pytest.raises(DataError, match=r"parents of 'x' have 4913 configurations; a table takes 4096 at most.*network"):
        Categorical(model="table").prepare(node, wide, torch.zeros(3, dtype=torch.int64), parents)


def test_a_parent_outside_the_known_table_is_an_error():
    mechanism = Monotone(probabilities=random_table(0, 2, 3, 2))
    with pytest.raises(DataError, match="parent 'b' has codes 0 to 5, but 3 states are known"):
        mechanism.predict(torch.rand(2), {"a": torch.tensor([0, 0]), "b": torch.tensor([0, 5])})
    with pytest.raises(DataError, match="has 2 parents, but was given a"):
        mechanism.predict(torch.rand(2), {"a": torch.tensor([0, 0])})


@pytest.mark.parametrize(
    ("factual", "do", "nodes", "error", "words"),
    [
        ({"aa": 1}, {"a": 1}, None, GraphError, "cannot observe aa.*no such node"),
        ({"a": 1}, {"d": 1}, None, GraphError, "cannot intervene on d"),
        ({"a": 1}, {"a": 1}, ["z"], GraphError, "cannot answer for z"),
        ({"a": 1}, {"a": 1}, [], GraphError, "nodes takes the names of discrete nodes"),
        ({"a": 1}, {"c": 10}, None, GraphError, "nodes takes the names of discrete nodes"),
        ({"a": 4}, {"a": 1}, None, DataError, "cannot observe 'a' as 4: it is none of its labels. Labels are: 0, 1, 2"),
        ({"a": 1}, {"b": "hihg"}, None, DataError, "cannot set 'b' as 'hihg'"),
        ({"a": 1}, {"b": ["low", "low"]}, None, DataError, "takes one label or number"),
    ],
)
def test_an_exact_question_that_makes_no_sense_is_an_error(factual, do, nodes, error, words):
    graph, mechanisms = chain(Monotone)
    with pytest.raises(error, match=words):
        exact_counterfactual(graph, mechanisms, factual, do, nodes=nodes)


def chain_of(states, length):
    """n0 -> n1 -> n2 -> ..., known."""
    nodes = [Node("n0", "categorical", states=range(states))]
    nodes += [Node(f"n{k}", "categorical", states=range(states), parents=[f"n{k - 1}"]) for k in range(1, length)]
    tables = [random_table(0, states), *(random_table(k, states, states) for k in range(1, length))]
    return CausalGraph("chain", nodes), {node.name: Categorical(probabilities=p) for node, p in zip(nodes, tables, strict=True)}


def test_a_long_chain_is_summed_link_by_link():
    graph, mechanisms = chain_of(4, 12)  # 16^11 pairs of worlds, but no more than 16 matter at a time
    found = exact_counterfactual(graph, mechanisms, {"n11": 2}, {"n0": 1}, nodes=["n11"]).to_numpy()
    pairs = np.einsum("a,b->ab", mechanisms["n0"].table()[0].numpy(), np.eye(4)[1])
    for k in range(1, 12):
        codes = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        joint = mechanisms[f"n{k}"].joint({"p": codes[:, 0]}, {"p": codes[:, 1]}).numpy()
        pairs = np.einsum("ab,abjk->jk", pairs, joint.reshape(4, 4, 4, 4))
    np.testing.assert_allclose(found, pairs[2] / pairs[2].sum(), atol=1e-13)


def test_an_exact_sum_that_is_too_large_is_an_error(monkeypatch):
    graph, mechanisms = chain_of(6, 5)
    monkeypatch.setattr(response, "_MOST_WORLDS", 1000)
    with pytest.raises(DataError, match="answer has 1296 combinations of labels, more than 1000"):
        exact_counterfactual(graph, mechanisms, {}, {"n0": 1})
    with pytest.raises(DataError, match=r"over \d+ pairs of worlds, more than 1000"):
        exact_counterfactual(graph, mechanisms, {"n4": 1}, {"n0": 1}, nodes=["n1", "n2", "n3"])


@pytest.mark.parametrize(
    ("scheme", "model", "names"),
    [
        *((scheme, *case) for scheme in (Categorical, Monotone, ResponseType) for case in (("table", ()), ("network", ("sex",)))),
        (Categorical, "network", ("age", "sex")),
        (Monotone, "ordered", ("age", "treated")),
    ],
)
def test_every_discrete_mechanism_keeps_the_contract(scheme, model, names, monkeypatch):
    monkeypatch.setattr(training, "_ATTRIBUTE_STEPS", 60)
    value = (4 * rows(600, 2).uniform() ** 2).long()
    promises = check_mechanism(
        scheme(model=model),
        Node("stage", "ordinal", states=STAGE, parents=names),
        [NODES[name] for name in names],
        value,
        parents_of(names, 600),
    )
    assert "predict undoes abduct" in promises


@pytest.mark.parametrize("age", [-500.0, math.nan, math.inf])
def test_an_exact_answer_is_refused_outside_the_support(age):
    node = Node("age", "continuous", support=(0, 120))
    graph = CausalGraph("g", [node, Node("ill", "binary", parents=["age"])])
    with pytest.raises(DataError, match=r"cannot set 'age' as .*: (outside its support|it takes a finite number)"):
        exact_counterfactual(graph, {"age": Flow(), "ill": Monotone()}, {"ill": 1}, {"age": age})
