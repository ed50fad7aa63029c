"""One feature per class, read by cross attention."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nc_medfl.networks.class_attention import ClassMLP, ClassQueryAttention, attention_maps, sine_cosine_code
from nc_medfl.networks.etf import simplex_etf


def slow_attention(module: ClassQueryAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention from its definition, by loops over images, heads and classes."""
    inner = module.attention
    dim = inner.embed_dim
    wq, wk, wv = inner.in_proj_weight.split(dim)
    bq, bk, bv = inner.in_proj_bias.split(dim)
    size = dim // inner.num_heads
    features = torch.zeros(x.shape[0], module.class_queries.shape[0], dim, dtype=x.dtype)
    weights = torch.zeros(x.shape[0], inner.num_heads, module.class_queries.shape[0], x[0, 0].numel(), dtype=x.dtype)
    for b in range(x.shape[0]):
        tokens = torch.stack([x[b, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])])
        queries, keys, values = module.class_queries @ wq.T + bq, tokens @ wk.T + bk, tokens @ wv.T + bv
        for c in range(queries.shape[0]):
            heads = []
            for h in range(inner.num_heads):
                part = slice(h * size, (h + 1) * size)
                scores = keys[:, part] @ queries[c, part] / math.sqrt(size)
                weights[b, h, c] = scores.exp() / scores.exp().sum()
                heads.append(weights[b, h, c] @ values[:, part])
            features[b, c] = inner.out_proj.weight @ torch.cat(heads) + inner.out_proj.bias
    return features, weights


def test_attention_equals_its_definition() -> None:
    torch.manual_seed(0)
    module = ClassQueryAttention(simplex_etf(5, 8, seed=0).double(), num_heads=2)
    nn.init.normal_(module.attention.in_proj_bias)
    x = torch.randn(3, 8, 4, 3, dtype=torch.float64)
    features, attention = module(x)
    slow_features, slow_weights = slow_attention(module, x)
    torch.testing.assert_close(features, slow_features)
    torch.testing.assert_close(attention, slow_weights)


@pytest.mark.parametrize("training", [True, False])
def test_attention_is_the_standard_module(training: bool) -> None:
    torch.manual_seed(0)
    frame = simplex_etf(5, 8)
    module = ClassQueryAttention(frame).train(training)
    reference = nn.MultiheadAttention(8, 4, batch_first=True).train(training)
    reference.load_state_dict(module.attention.state_dict())
    x = torch.randn(3, 8, 4, 3)
    tokens = x.permute(0, 2, 3, 1).reshape(3, 12, 8)
    expected = reference(frame.repeat(3, 1, 1), tokens, tokens, average_attn_weights=False)
    for got, want in zip(module(x), expected, strict=True):
        torch.testing.assert_close(got, want)


@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 9),
    heads=st.sampled_from([1, 2, 4]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    learned=st.booleans(),
    code=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_shapes_and_rows_that_sum_to_one(
    batch: int, classes: int, heads: int, size: tuple[int, int], learned: bool, code: bool
) -> None:
    module = ClassQueryAttention(simplex_etf(classes, 12), heads, learned=learned, position_code=code)
    features, attention = module(torch.randn(batch, 12, *size))
    assert features.shape == (batch, classes, 12)
    assert attention.shape == (batch, heads, classes, size[0] * size[1])
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(batch, heads, classes))
    assert attention_maps(attention, *size).shape == (batch, heads, classes, *size)


def test_permuting_places_permutes_attention_and_keeps_features() -> None:
    torch.manual_seed(0)
    module = ClassQueryAttention(simplex_etf(5, 8))
    x = torch.randn(2, 8, 3, 4)
    order = torch.randperm(12)
    moved = x.flatten(2)[..., order].unflatten(2, (3, 4))
    features, attention = module(x)
    moved_features, moved_attention = module(moved)
    torch.testing.assert_close(moved_features, features)
    torch.testing.assert_close(moved_attention, attention[..., order])


def test_with_a_position_code_places_matter() -> None:
    torch.manual_seed(0)
    module = ClassQueryAttention(simplex_etf(5, 8), position_code=True)
    x = torch.randn(2, 8, 3, 4)
    assert not torch.allclose(module(x)[0], module(x.flip(3))[0], atol=1e-4)


def test_position_code_by_hand() -> None:
    # D = 8: two frequencies, 1 and 1/100. Place (row 1, column 2), sines before cosines, row before column.
    code = sine_cosine_code(2, 3, 8, like=torch.zeros(1))
    expected = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    expected += [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    assert code.shape == (6, 8)
    assert code[1 * 3 + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_maps_lie_where_the_image_does() -> None:
    # One place of the map holds a token unlike all others; the map must light or dim at that very place.
    torch.manual_seed(0)
    x = torch.zeros(1, 8, 3, 5)
    x[0, :, 2, 1] = torch.randn(8) * 5
    maps = attention_maps(ClassQueryAttention(simplex_etf(5, 8))(x)[1], 3, 5)[0, 0, 0]
    others = torch.ones(3, 5, dtype=torch.bool)
    others[2, 1] = False
    assert maps[others].std() < 1e-6
    assert (maps[2, 1] - maps[0, 0]).abs() > 1e-4


def test_learned_queries_train_and_start_where_they_are_put() -> None:
    frame = simplex_etf(5, 8)
    module = ClassQueryAttention(frame, learned=True)
    assert torch.equal(module.state_dict()["class_queries"], frame)
    module(torch.randn(2, 8, 3, 3))[0].square().sum().backward()
    assert isinstance(module.class_queries, nn.Parameter)
    assert module.class_queries.grad is not None
    assert module.class_queries.grad.abs().sum() > 0


def test_attention_gradients() -> None:
    module = ClassQueryAttention(simplex_etf(3, 4).double(), num_heads=2, position_code=True)
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: module(t), (x,))


@pytest.mark.parametrize(
    ("dim", "heads", "code", "message"),
    [(13, 4, False, "Set feature_dim to 16"), (8, 3, False, "Set feature_dim to 9"), (6, 2, True, "multiple of 4")],
)
def test_dimension_that_does_not_fit_is_refused(dim: int, heads: int, code: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassQueryAttention(simplex_etf(5, dim), heads, position_code=code)


def test_per_class_networks_equal_a_loop_over_classes() -> None:
    torch.manual_seed(0)
    module = ClassMLP(3, 8, hidden_dim=4)
    for bias in (module.bias_in, module.bias_out):
        nn.init.normal_(bias)
    x = torch.randn(2, 8, 3, 3)
    features, attention = module(x)
    for c in range(3):
        hidden = nn.functional.gelu(x.mean(dim=(2, 3)) @ module.weight_in[c] + module.bias_in[c])
        torch.testing.assert_close(features[:, c], hidden @ module.weight_out[c] + module.bias_out[c])
    torch.testing.assert_close(attention, torch.full((2, 1, 3, 9), 1 / 9))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("classes", [2, 7, 60])
@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("position_code", [False, True])
def test_every_form_of_the_attention_has_the_values_and_gradients_of_torchs_module(
    heads: int, classes: int, side: int, position_code: bool
) -> None:
    torch.manual_seed(classes)
    dim = 64
    module = ClassQueryAttention(
        simplex_etf(classes, dim, seed=1).double(), heads, learned=True, position_code=position_code
    )
    nn.init.normal_(module.attention.in_proj_bias)
    nn.init.normal_(module.attention.out_proj.bias)
    maps = [torch.randn(3, dim, side, side, dtype=torch.float64)]
    maps += [maps[0].clone(), maps[0].to(memory_format=torch.channels_last)]
    for one in maps:
        one.requires_grad_()
    tokens = maps[0].flatten(2).transpose(1, 2)
    keys = tokens
    if position_code:
        keys = tokens + sine_cosine_code(side, side, dim, like=tokens)
    wanted = module.attention(module.class_queries.expand(3, -1, -1), keys, tokens, average_attn_weights=False)
    parts = torch.randn_like(wanted[0]), torch.randn_like(wanted[1])

    def gradients(outputs: tuple[Tensor, Tensor], leaf: Tensor) -> list[Tensor]:
        total = sum((out * part).sum() for out, part in zip(outputs, parts, strict=True))
        return list(torch.autograd.grad(total, [leaf, *module.parameters()]))

    expected = gradients(wanted, maps[0])
    for leaf in maps[1:]:
        found = module(leaf)
        torch.testing.assert_close(found, wanted)
        for one, other in zip(gradients(found, leaf), expected, strict=True):
            torch.testing.assert_close(one, other)
        rows = torch.randn(classes, dim, dtype=torch.float64)
        torch.testing.assert_close(module.compare(leaf, rows), (wanted[0] * rows).sum(dim=-1))
