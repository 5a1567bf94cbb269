"""A batch of rollouts in parts of about equal length: the loss is the same, and less padding is computed.

loss = sum(loss_of(model, part) for part in by_length(inputs, chunks=4))
"""

from collections.abc import Iterator, Mapping

import torch
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

_BY_TOKEN = {"completion_ids", "completion_mask", "tool_mask", "advantages", "old_per_token_logps"}
_BY_TOKEN |= {"ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"}  # (B, completion)


def by_length(inputs: Mapping, chunks: int) -> Iterator[dict]:
    """Parts of a batch whose rollouts are about equally long, each cut to its longest: less padding to compute.

    The losses of the parts sum to that of the batch, because TRL divides by the tokens of the whole batch.
    """
    prompt = inputs["prompt_ids"].shape[1]
    lengths = inputs["completion_mask"].sum(1)  # (B,)
    whole = split_pixel_values_by_grid(dict(inputs))
    for rows in lengths.argsort(stable=True).tensor_split(chunks):
        if len(rows):
            longest = int(lengths[rows].max())
            part = {key: _rows(value, rows.tolist()) for key, value in whole.items()}
            for key, value in part.items():
                if key.endswith("token_type_ids"):
                    part[key] = value[:, : prompt + longest]
                elif key in _BY_TOKEN and value.dim() == 2:
                    part[key] = value[:, :longest]
            yield unsplit_pixel_values_by_grid(part)


def _rows(value, rows: list[int]):
    if isinstance(value, torch.Tensor) and value.dim():
        return value[rows]
    return [value[i] for i in rows] if isinstance(value, list) else value
