"""Recipes are what the studies before used, or what two cores can train, and know data on disk by their layout alone."""

import ast
import inspect

import pytest
import torch

import causalcf as ccf
import causalcf.recipes
from causalcf.datasets.phantoms.studies import phantom
from causalcf.datasets.readers import read_study
from causalcf.denoiser import AttributeSplitUNet
from causalcf.recipes import at_size, recipe_for

PAPER = {
    "celebahq": (64, [64, 128, 256, 512], 128, ["", "", "Attn", "Attn"]),
    "mimic_cxr": (192, [96, 96, 192, 192, 384, 384], 32, ["", "", "", "", "Attn", "Attn"]),
    "embed": (192, [96, 96, 192, 192, 384, 384], 32, ["", "", "", "", "Attn", "Attn"]),
}


@pytest.fixture(scope="module", params=list(PAPER))
def study(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / request.param
    return request.param, phantom(request.param).write(directory, 40)


def made(name, directory, small):
    graph = at_size(ccf.load_graph(name), directory, small=small)
    return recipe_for(read_study(name, directory, graph), small=small)


def blocks(image, graph):
    """The kinds of the network's levels, its weights left out of memory."""
    parents = [{"name": name, "mean": 0.0, "scale": 1.0} for name in graph.parents("image")]
    with torch.device("meta"):
        return [
            type(block).__name__
            for block in AttributeSplitUNet(parents, graph.node("image").shape, **image.network).unet.down_blocks
        ]


def test_a_recipe_at_the_papers_size_has_the_papers_network_and_training(study):
    name, directory = study
    side, channels, rows, attended = PAPER[name]
    recipe = made(name, directory, small=False)
    scm = recipe.scm()
    image = scm.mechanisms["image"]
    assert scm.graph.node("image").shape[1:] == (side, side)
    assert (image.network["channels"], image.network["patch"], image.network["layers"]) == (channels, 1, 2)
    assert blocks(image, scm.graph) == [f"{kind}DownBlock2D" for kind in attended]
    assert len(image.scheduler.alphas_cumprod) == 1000
    assert image.scheduler.config.beta_schedule == "linear"
    training = ccf.Training(**recipe.training)
    assert (training.batch_size, training.learning_rate, training.ema_decay) == (rows, 1e-4, 0.9999)
    assert training.optimiser == "adamw"
    assert training.mirror == (name == "celebahq")


def test_a_small_recipe_sees_64_pixels_and_folds_them_into_16(study):
    name, directory = study
    recipe = made(name, directory, small=True)
    scm = recipe.scm()
    image = scm.mechanisms["image"]
    assert scm.graph.node("image").shape[1:] == (64, 64)
    assert image.network["patch"] == 4
    assert blocks(image, scm.graph) == ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
    assert recipe.training["steps"] == 2500
    assert recipe.rows == len(recipe.batch("train", 1000))


def test_no_recipe_knows_of_phantoms():
    tree = ast.parse(inspect.getsource(causalcf.recipes))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert imported
    assert not any("phantom" in name for name in imported)
