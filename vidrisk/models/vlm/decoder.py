"""The decoder of a language model on one layout: prompt embeddings and visual tokens → states."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from vidrisk.models.vlm.layout import Layout
from vidrisk.runtimes.contract.errors import SettingsError, first_line

HIDDEN = -3e4  # added to masked scores; representable in FP16, and its exponential is 0


def decode(
    decoder: Any,
    order: Tensor,
    visual: Tensor,
    prompt: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
    past: Tensor | None = None,
) -> Tensor:
    """Return the last states, after the final norm, ``(B, L, D)``.

    Args:
        decoder: of transformers, without its output embeddings.
        order: ``(L,)``, of ``layout``.
        visual: ``(B, N, k · D)``: the N visual tokens, followed by what is added at their positions after each of the
            first k - 1 layers (DeepStack, Meng et al. 2024).
        prompt: embeddings of the text ``(P, D)``.
        positions: ``(L,)``, or ``(3, L)`` in time, height and width.
        mask: ``(L, L)``, added to attention scores, ``(L, S + L)`` after a past; None leaves the causal mask to the
            decoder.
        past: keys and values of the S preceding tokens, as returned by ``past_from_prompt``.
    """
    width = prompt.shape[-1]
    dtype = prompt.dtype
    visual = visual.to(dtype)
    batch = visual.shape[0]

    def place(text: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([text.expand(batch, -1, -1), tokens], dim=1).index_select(1, order)

    further: dict[str, Any] = {}
    if visual.shape[-1] > width:
        zeros = torch.zeros_like(prompt)
        further = {
            "deepstack_visual_embeds": [place(zeros, tokens) for tokens in torch.split(visual, width, dim=-1)[1:]]
        }
    if past is not None:
        layers = past.to(dtype)[:, :, None].expand(-1, -1, batch, -1, -1, -1)
        further |= _cache_argument(decoder, transformers.DynamicCache([(keys, values) for keys, values in layers]))
    output = decoder(
        inputs_embeds=place(prompt, visual[..., :width]),
        position_ids=_of_batch(positions, batch),
        use_cache=past is not None,
        attention_mask=None if mask is None else mask.to(dtype)[None, None],
        **further,
    )
    states: Tensor = output.last_hidden_state
    return states


def past_from_prompt(decoder: Any, prompt: Tensor, positions: Tensor) -> Tensor:
    """Compute keys and values of the first tokens of a conversation.

    Args:
        decoder: as for ``decode``.
        prompt: embeddings ``(S, D)``.
        positions: ``(S,)`` or ``(3, S)``.

    Returns:
        ``(layers, 2, heads, S, D of a head)``, float32.
    """
    cache = transformers.DynamicCache()
    decoder(
        inputs_embeds=prompt[None],
        position_ids=_of_batch(positions, 1),
        use_cache=True,
        attention_mask=causal_mask(len(prompt)).to(prompt)[None, None],
        **_cache_argument(decoder, cache),
    )
    layers: list[Any] = cache.layers
    return torch.stack([torch.cat((layer.keys, layer.values)) for layer in layers]).float()


def _cache_argument(decoder: Any, cache: transformers.DynamicCache) -> dict[str, transformers.DynamicCache]:
    """Return the cache under its argument name in transformers: ``cache`` from 5.24 on, ``past_key_values`` before."""
    return {"cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values": cache}


def _of_batch(positions: Tensor, batch: int) -> Tensor:
    return positions[None].expand(batch, -1) if positions.ndim == 1 else positions[:, None].expand(-1, batch, -1)


def causal_mask(length: int) -> Tensor:
    """Return a mask to add to attention scores ``(L, L)``, so that no token sees later ones."""
    return torch.full((length, length), HIDDEN).triu(1)


class TextStage(nn.Module):
    """Visual tokens ``(B, runs, n, k · D)``, a prompt and its positions → the state at the token, ``(B, D)``.

    The S text tokens before the first visual one are the same for every window: ``past`` holds their keys and values,
    and ``prompt`` and ``positions`` begin after them. The mask is part of the graph, so that the exported graph does
    not test its shape.
    """

    order: Tensor
    mask: Tensor

    def __init__(self, decoder: Any, layout: Layout) -> None:
        super().__init__()
        self.decoder = decoder
        behind = layout.leading
        self.register_buffer("order", torch.from_numpy(layout.order[behind:] - behind), persistent=False)
        self.register_buffer("mask", causal_mask(layout.length)[behind:], persistent=False)

    def forward(self, visual: Tensor, prompt: Tensor, positions: Tensor, past: Tensor | None = None) -> Tensor:
        states = decode(self.decoder, self.order, visual.flatten(1, 2), prompt, positions, self.mask, past)
        return states[:, -1].float()


def reach_of(decoder: Any) -> dict[str, int]:
    """Return the greatest number of tokens that a decoder takes, by the settings of its model that limit it.

    A sliding window counts as a limit, because an exported graph attends to all tokens.
    """
    config = decoder.config
    bounds = {
        "max_position_embeddings": getattr(config, "max_position_embeddings", None),
        "sliding_window": getattr(config, "sliding_window", None)
        if getattr(config, "use_sliding_window", True)
        else None,
    }
    return {f"the language model's {name}": bound for name, bound in bounds.items() if bound}


def check_reach(decoder: Any, length: int) -> None:
    """Refuse a prompt that is longer than a decoder's limit.

    Raises:
        SettingsError: the prompt is too long.
    """
    for name, most in reach_of(decoder).items():
        if length > most:
            raise SettingsError(
                f"a prompt of {length} tokens, visual ones included, exceeds {name} of {most}",
                allowed=f"{most} tokens",
                fix="use fewer or smaller frames, or another language model",
            )


@torch.no_grad()
def check_decoder(language_model: Any) -> None:
    """Refuse a language model that cannot classify.

    It must run on embeddings, be causal, and give the same output with its own mask and with an explicit one, and with
    and without a cache.

    Args:
        language_model: of transformers, with at least 12 tokens.

    Raises:
        SettingsError: it fails one of these checks.
    """

    def refusal(reason: str) -> SettingsError:
        return SettingsError(
            f"{type(language_model).__name__} as the language model of a classifier: {reason}",
            allowed="causal ones that take embeddings, positions and a mask, such as Llama, Qwen or Gemma",
        )

    try:
        decoder = language_model.get_decoder()
        rows = language_model.get_input_embeddings()(torch.arange(12, device=language_model.device))
        text, visual = rows[:2], rows[2:10].reshape(2, 4, -1)
        order, mask = torch.arange(6, device=rows.device), causal_mask(6).to(rows.device)
        found = decode(decoder, order, visual, text, order)
        masked = decode(decoder, order, visual, text, order, mask)
        past = past_from_prompt(decoder, text, order[:2])
        behind = decode(decoder, order[:4], visual, text[:0], order[2:], mask[2:], past).float()
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise refusal(first_line(error)) from error
    width = language_model.config.get_text_config().hidden_size
    if not rows.shape[-1] == found.shape[-1] == width:
        raise refusal(f"embeddings are {rows.shape[-1]} and states {found.shape[-1]} wide, but both must be {width}")
    found, masked = found.float(), masked.float()
    if not (found[0, :2] - found[1, :2]).std() < 0.02 * found.std():
        raise refusal("its tokens see later ones")
    if not (found - masked).std() < 0.1 * found.std():  # bfloat16 differs by less
        raise refusal("its output changes when the mask is passed explicitly")
    if not (found[:, 2:] - behind).std() < 0.1 * found.std():
        raise refusal("its output changes when its first tokens come from a cache")
