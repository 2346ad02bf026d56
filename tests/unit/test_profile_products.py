"""Whose a matrix product is: on the recorded trace of a model whose shape is known, and on what was cut from it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from leverlab.profile.analysis import UNKNOWN
from leverlab.profile.classes import kernel_classes
from leverlab.profile.products import ATTENTION, HEAD, MLP, LayerProducts, layer_products
from leverlab.profile.tables import Trace
from leverlab.profile.torch_trace import read_torch_traces
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"
LAYERS = 8
HIDDEN, INTERMEDIATE, KEYS_VALUES = 512, 1408, 512
"""Of `tiny-llama`, config/models.yaml."""


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return read_torch_traces([RECORDED], kernel_classes(SOURCE))


def told(trace: Trace, layers: int = LAYERS) -> LayerProducts:
    found = layer_products(trace, layers)
    assert found is not None
    return found


def products_of(trace: Trace) -> pd.DataFrame:
    return trace.kernels[trace.kernels["class"] == "gemm"].sort_values("start_s")


def test_every_product_of_the_recorded_trace_finds_its_place(recorded: Trace) -> None:
    found, products = told(recorded), products_of(recorded)
    assert found.reason is None and UNKNOWN not in set(found.time_s["part"])
    assert found.time_s["time_s"].sum() == pytest.approx(products["duration_s"].sum())
    longest = products[products["phase"] == "decode"].nlargest(8, "duration_s")
    assert found.of(["decode"], HEAD) == pytest.approx(longest["duration_s"].sum()), (
        "the vocabulary is the largest matrix"
    )


def test_a_prompts_products_take_as_long_as_their_weights_are_many(recorded: Trace) -> None:
    """With 256 tokens arithmetic counts, and each token meets each weight once."""
    found = told(recorded)
    attention = HIDDEN * (HIDDEN + KEYS_VALUES) + HIDDEN * HIDDEN
    ratio = found.of(["prefill"], MLP) / found.of(["prefill"], ATTENTION)
    assert ratio == pytest.approx(3 * HIDDEN * INTERMEDIATE / attention, rel=0.1)


@pytest.mark.parametrize("cut", [0.3, 0.51, 0.77])
def test_what_a_window_cuts_off_is_not_told_and_the_rest_is(recorded: Trace, cut: float) -> None:
    """In a step that the window's start cuts, the products before the first layer that is seen whole have no place."""
    kernels = recorded.kernels
    begin = float(kernels["start_s"].quantile(cut))
    part = kernels[(kernels["start_s"] >= begin) & (kernels["start_s"] < begin + 0.03)]
    found, whole = told(replace(recorded, kernels=part)), told(recorded)
    unknown = found.of(["decode"], UNKNOWN)
    products = products_of(replace(recorded, kernels=part))
    assert found.time_s["time_s"].sum() == pytest.approx(products["duration_s"].sum())
    assert 0 <= unknown < float(products["duration_s"].iloc[:4].sum()), "less than a layer"
    assert found.of(["decode"], MLP) / found.of(["decode"], ATTENTION) == pytest.approx(
        whole.of(["decode"], MLP) / whole.of(["decode"], ATTENTION), rel=0.15
    )


def test_what_adds_up_a_products_parts_belongs_to_it(recorded: Trace) -> None:
    products = products_of(recorded)
    down = products[(products["phase"] == "decode") & (products.groupby("step").cumcount() == 3)]
    name = "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>(cublasLt::cublasSplitKParams<float>)"
    sums = down.assign(kernel=name, start_s=down["start_s"] + down["duration_s"], duration_s=1e-6)
    before, after = told(recorded), told(replace(recorded, kernels=pd.concat([recorded.kernels, sums])))
    assert after.reason is None and after.of(["decode"], UNKNOWN) == 0
    assert after.of(["decode"], MLP) - before.of(["decode"], MLP) == pytest.approx(len(down) * 1e-6)


def test_with_another_number_of_products_nothing_is_told(recorded: Trace) -> None:
    """Without every other product a layer has two: nobody knows which."""
    kernels = recorded.kernels.sort_values("start_s").reset_index(drop=True)
    places = np.flatnonzero(kernels["class"] == "gemm")[::2]
    fewer = kernels.assign(**{"class": kernels["class"].where(~kernels.index.isin(places), "norm_elementwise")})
    found = told(replace(recorded, kernels=fewer))
    assert found.reason is not None and found.reason.startswith("2 matrix products lie between")
    assert set(found.time_s["part"]) == {UNKNOWN}
    mixture = fewer.assign(**{"class": fewer["class"].where(~fewer.index.isin(places), "moe")})
    assert "mixture of experts" in (told(replace(recorded, kernels=mixture)).reason or "")


def test_without_layers_there_is_nothing_to_tell(recorded: Trace) -> None:
    only = recorded.kernels[recorded.kernels["class"] == "gemm"]
    assert layer_products(replace(recorded, kernels=only), LAYERS) is None
