"""The token whose state is classified: an added token in a spare row of the embeddings."""

from __future__ import annotations

from typing import Any

import torch

from vidrisk.runtimes.contract.errors import SettingsError


def add_token(model: Any, tokenizer: Any, token: str) -> int:
    """Add a token to a language model, and return its id.

    It uses a spare row if the embeddings have more rows than the tokenizer has tokens; otherwise a row is added. The
    row starts as the mean of the tokens' rows, the same at every load.

    Args:
        model: of transformers, with input embeddings; tied output embeddings stay tied.
        tokenizer: of the model.
        token: to add.

    Raises:
        SettingsError: the tokenizer already has it, and uses it for something else.
    """
    if token in tokenizer.get_vocab():
        raise SettingsError(
            f"vlm.token {token!r} is a token of the backbone already",
            allowed="a token that it does not have",
            fix="choose another one, such as <ACTION>",
        )
    known = len(tokenizer)
    tokenizer.add_tokens([token], special_tokens=True)
    number = int(tokenizer.convert_tokens_to_ids(token))
    if number >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(number + 1, mean_resizing=False)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    matrices = {end.weight.data_ptr(): end.weight for end in ends if end is not None}
    with torch.no_grad():
        for weight in matrices.values():
            weight[number] = weight[:known].float().mean(dim=0).to(weight.dtype)
    return number
